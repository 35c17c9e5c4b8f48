"""MoNNA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import HonestMajority, Rule, Weighting, credit_lowest
from byzgym.aggregation.registry import registry
from byzgym.numerics.distances import row_norms
from byzgym.validation import check_int

BLOCK = 1 << 15  # columns whose differences are held at once


@registry.built_in("monna")
class MoNNA(HonestMajority, Weighting):
    """MoNNA of Farhadkhani, Guerraoui, Gupta, Hoang, Pinot and Stephan 2023, "Robust Collaborative Learning
    with Linear Gradient Overhead" (https://arxiv.org/abs/2209.10931). It averages the n - f submissions that
    are nearest to the one of a worker that is trusted.

    That submission counts among them; of equally near ones, the first do. In the paper every worker does this
    for itself, with its own submission. A server has to know an honest worker: the rule is as good as
    the worker it is told. It is worker 0 unless told otherwise, as in ByzFL. Where the submission of that
    worker is rejected, the first accepted one takes its place.

    Condition: n >= 2f + 1. Cost: n d.

    Args:
        num_byzantine: The number f of Byzantine workers to expect.
        worker: The number of the trusted worker, from 0 to n - 1.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]])
        >>> MoNNA(num_byzantine=2, worker=3)(rows)  # nearest to 4: 4, 2, 1
        tensor([2.3333])
    """

    # No breakdown, since nobody assures that the trusted worker is honest.
    claims: ClassVar[frozenset[str]] = frozenset({"translation", "scale", "hull"})
    symmetric: ClassVar[bool] = False

    def __init__(self, num_byzantine: int = 0, worker: int = 0) -> None:
        super().__init__(num_byzantine)
        self.worker = check_int("worker", worker, low=0)

    def check(self, gradients: Tensor) -> None:
        """Raise an error unless shape, type, ``worker`` and the condition on n and f fit."""
        super().check(gradients)
        check_int("worker", self.worker, low=0, high=gradients.shape[-2] - 1)

    def _credits(self, gradients: Tensor) -> Tensor:
        keep = gradients.shape[-2] - self.num_byzantine
        return credit_lowest(self._distances(gradients.detach()), keep).to(gradients.dtype)

    def _distances(self, gradients: Tensor) -> Tensor:
        """The distances [..., n] from the trusted submission, in double precision."""
        parts = []
        for columns in gradients.split(BLOCK, dim=-1):
            block = columns if columns.element_size() >= 4 else columns.float()
            parts.append(row_norms(block - block[..., self.worker, None, :]))
        return torch.linalg.vector_norm(torch.stack(parts), dim=0)

    def _by_accepted(
        self, gradients: Tensor, accepted: Tensor
    ) -> Iterator[tuple[Rule, Tensor, Tensor, Tensor]]:
        """See `Rule._by_accepted`; the trusted worker's number among the accepted differs between runs."""
        accepted = accepted.reshape(-1, accepted.shape[-1])
        place = accepted[:, : self.worker].sum(-1) * accepted[:, self.worker]
        for number in place.unique().tolist():
            here = accepted & (place == number)[:, None]
            for rule, runs, rows, kept in super()._by_accepted(gradients, here):
                assert isinstance(rule, MoNNA)
                rule.worker = number  # it is a copy
                yield rule, runs, rows, kept
