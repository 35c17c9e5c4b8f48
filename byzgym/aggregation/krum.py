"""Krum and Multi-Krum."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import EQUIVARIANT, Weighting
from byzgym.aggregation.registry import registry
from byzgym.numerics.distances import squared_distances, take_row
from byzgym.validation import check_int


def krum_scores(squared: Tensor, num_neighbors: int) -> Tensor:
    """Each row's sum [..., n] of the squared distances [..., n, n] to its nearest neighbours."""
    others = squared.clone()
    others.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    return others.sort(dim=-1).values[..., :num_neighbors].sum(-1)


class _Krum(Weighting):
    condition: ClassVar[str] = "n >= 2f + 3"
    claims: ClassVar[frozenset[str]] = EQUIVARIANT | {"hull", "breakdown"}

    @classmethod
    def max_byzantine(cls, num_workers: int) -> int:
        """The largest f that this rule accepts for n workers (-1 where it accepts none)."""
        return max(-1, (num_workers - 3) // 2)

    def _scores(self, gradients: Tensor) -> Tensor:
        num_neighbors = gradients.shape[-2] - self.num_byzantine - 2
        return krum_scores(squared_distances(gradients), num_neighbors)


@registry.built_in("krum")
class Krum(_Krum):
    """Krum of Blanchard, El Mhamdi, Guerraoui and Stainer 2017, "Machine Learning with Adversaries: Byzantine
    Tolerant Gradient Descent" (preprint: https://arxiv.org/abs/1703.02757). It takes the submission that is
    closest to its n - f - 2 nearest others.

    The score of x_i is the sum of ||x_i - x_j||^2 over these others x_j. The smallest score wins, the first
    of several equal ones. Other libraries sum over n - f - 1 neighbours (ByzFL, ByzPy), distances
    that are not squared (Garfield) or their fourth powers (fedlib).

    Condition: n >= 2f + 3. Cost: n^2 d.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]])  # scores: 5, 2, 5, 13, 18820
        >>> Krum(num_byzantine=1)(rows)
        tensor([1.])
    """

    def _credits(self, gradients: Tensor) -> Tensor:
        best = self._scores(gradients).argmin(-1, keepdim=True)
        return gradients.new_zeros(gradients.shape[:-1]).scatter_(-1, best, 1.0)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return take_row(gradients, self._scores(gradients).argmin(-1))


@registry.built_in("multi_krum")
class MultiKrum(_Krum):
    """Multi-Krum of Blanchard, El Mhamdi, Guerraoui and Stainer 2017, "Machine Learning with Adversaries:
    Byzantine Tolerant Gradient Descent" (preprint: https://arxiv.org/abs/1703.02757). It averages the m
    submissions with the smallest scores of `Krum`.

    Libraries differ in m: n - f (ByzFL, and here by default), n - f - 2 (Garfield, AggregaThor), n - 2f - 3
    (krum). The code of min_max's authors repeats Krum among those not yet taken, until 2f + 2 are left.

    Condition: n >= 2f + 3. Cost: n^2 d.

    Args:
        num_byzantine: The number f of Byzantine workers to expect.
        num_selected: The number m of submissions to average, from 1 to n; n - f if None.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]])  # scores: 5, 2, 5, 13, 18820
        >>> MultiKrum(num_byzantine=1, num_selected=3)(rows)
        tensor([1.])
    """

    def __init__(self, num_byzantine: int = 0, num_selected: int | None = None) -> None:
        super().__init__(num_byzantine)
        if num_selected is not None:
            num_selected = check_int("num_selected", num_selected, low=1)
        self.num_selected = num_selected

    def check(self, gradients: Tensor) -> None:
        """Raise an error unless shape, type, ``num_selected`` and the condition on n and f fit."""
        super().check(gradients)
        if self.num_selected is not None:
            check_int("num_selected", self.num_selected, low=1, high=gradients.shape[-2])

    def _credits(self, gradients: Tensor) -> Tensor:
        num_workers = gradients.shape[-2]
        selected = min(self.num_selected or num_workers - self.num_byzantine, num_workers)
        best = self._scores(gradients).sort(dim=-1, stable=True).indices[..., :selected]
        return gradients.new_zeros(gradients.shape[:-1]).scatter_(-1, best, 1 / selected)
