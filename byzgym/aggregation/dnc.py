"""Divide and conquer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import EQUIVARIANT, HonestMajority, Weighting, credit_lowest
from byzgym.aggregation.drawing import DrawingRule, take_columns
from byzgym.aggregation.registry import registry
from byzgym.validation import check_int, check_real


@registry.built_in("dnc")
class DnC(DrawingRule, HonestMajority, Weighting):
    """Divide and conquer (DnC) of Shejwalkar and Houmansadr 2021, "Manipulating the Byzantine: Optimizing
    Model Poisoning Attacks and Defenses for Federated Learning" (https://doi.org/10.14722/ndss.2021.24498).
    It drops submissions that stand out in the direction in which random parts of the submissions vary most.

    An iteration draws some coordinates, centres the submissions there on their mean, and scores each by its
    squared projection on the first right singular vector. It keeps the n - c f lowest scores, of equal ones
    the first. The submissions that all iterations keep are averaged. The paper does not say what to do if
    there is none; then those kept by most iterations are averaged (CRYPTO-KU's library takes those that any
    iteration keeps).

    The defaults are those of Blades. FLPoison draws a fifth of the coordinates, 5 times; SignGuard's code
    1000 coordinates, once, and has c = (n - 1) / n.

    Condition: n >= 2f + 1. Cost: iterations * n^2 * sub_dimension, and n d.

    Args:
        num_byzantine: The number f of Byzantine workers to expect.
        sub_dimension: The number of coordinates to draw, at least 1; all where there are not more.
        iterations: Their number, at least 1.
        filter_fraction: c, at least 0: c f submissions are dropped, rounded down, but never all.
        seed: Of the draws, at least 0; see `DrawingRule`.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]])  # farthest from 21.4: 100, then 0
        >>> DnC(num_byzantine=2)(rows)
        tensor([2.3333])
    """

    # No breakdown: of two far away in different directions, one can hide behind the other.
    claims: ClassVar[frozenset[str]] = EQUIVARIANT | {"hull"}

    def __init__(
        self,
        num_byzantine: int = 0,
        sub_dimension: int = 10_000,
        iterations: int = 5,
        filter_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(num_byzantine, seed)
        self.sub_dimension = check_int("sub_dimension", sub_dimension, low=1)
        self.iterations = check_int("iterations", iterations, low=1)
        self.filter_fraction = check_real("filter_fraction", filter_fraction, low=0)

    def _credits(self, gradients: Tensor) -> Tensor:
        num_workers, dimension = gradients.shape[-2:]
        keep = max(1, num_workers - int(self.filter_fraction * self.num_byzantine))
        if keep == num_workers:
            return gradients.new_full(gradients.shape[:-1], 1 / num_workers)
        rows = gradients.detach()
        if self.sub_dimension >= dimension:  # all iterations would be the same
            return credit_lowest(_outlier_scores(rows), keep).to(gradients.dtype)
        votes = torch.zeros(gradients.shape[:-1], dtype=torch.int64, device=gradients.device)
        for columns in self._draw_columns(rows, self.sub_dimension, self.iterations):
            votes += credit_lowest(_outlier_scores(take_columns(rows, columns)), keep) > 0
        kept = (votes == votes.amax(-1, keepdim=True)).to(torch.float64)
        return (kept / kept.sum(-1, keepdim=True)).to(gradients.dtype)


def _outlier_scores(rows: Tensor) -> Tensor:
    """The squared projections [..., n] of rows [..., n, b], less their mean, on the first singular vector.

    Inner products of the rows have the left singular vectors as eigenvectors, and these, times the singular
    value, are the projections.
    """
    centred = rows.double()
    centred = centred - centred.mean(-2, keepdim=True)
    values, vectors = torch.linalg.eigh(centred @ centred.mT)
    return values[..., -1:].clamp_min(0) * vectors[..., -1].square()
