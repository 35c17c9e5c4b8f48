"""Krum and Multi-Krum."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import Weighting
from byzgym.numerics.distances import squared_distances
from byzgym.aggregation.registry import registry
from byzgym.numerics.distances import take_row
from byzgym.validation import check_int


def krum_scores(squared: Tensor, num_neighbors: int) -> Tensor:
    """For each row the sum of the squared distances to its nearest neighbours.

    Args:
        squared: Squared distances, shape [..., n, n].
        num_neighbors: How many other rows count.

    Returns:
        Shape [..., n].
    """
    others = squared.clone()
    others.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    return others.sort(dim=-1).values[..., :num_neighbors].sum(-1)


class _Krum(Weighting):
    condition: ClassVar[str] = "n >= 2f + 3"

    @classmethod
    def max_byzantine(cls, num_workers: int) -> int:
        """The largest f that this rule accepts for n workers (-1 where it accepts none)."""
        return max(-1, (num_workers - 3) // 2)

    def _scores(self, gradients: Tensor) -> Tensor:
        num_neighbors = gradients.shape[-2] - self.num_byzantine - 2
        return krum_scores(squared_distances(gradients), num_neighbors)


@registry.built_in("krum")
class Krum(_Krum):
    """The submission with the smallest sum of squared distances to its n - f - 2 nearest others, n >= 2f + 3.

    Of several with the same score the first is taken. Source: Blanchard et al., "Machine Learning with
    Adversaries: Byzantine Tolerant Gradient Descent", section 4.
    """

    def _credits(self, gradients: Tensor) -> Tensor:
        best = self._scores(gradients).argmin(-1, keepdim=True)
        return gradients.new_zeros(gradients.shape[:-1]).scatter_(-1, best, 1.0)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return take_row(gradients, self._scores(gradients).argmin(-1))


@registry.built_in("multi_krum")
class MultiKrum(_Krum):
    """The mean of the m submissions with the smallest Krum scores, n >= 2f + 3.

    Source: Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    section 5 (m-Krum, Multi-Krum).

    Args:
        num_byzantine: The number f of Byzantine workers to expect.
        num_selected: The number m of submissions to average, from 1 to n; n - f if not given.
    """

    def __init__(self, num_byzantine: int = 0, num_selected: int | None = None) -> None:
        super().__init__(num_byzantine)
        if num_selected is not None:
            num_selected = check_int("num_selected", num_selected, low=1)
        self.num_selected = num_selected

    def check(self, gradients: Tensor) -> None:
        """Raise a ValueError unless shape, type, ``num_selected`` and the condition on n and f fit."""
        super().check(gradients)
        if self.num_selected is not None:
            check_int("num_selected", self.num_selected, low=1, high=gradients.shape[-2])

    def _credits(self, gradients: Tensor) -> Tensor:
        num_workers = gradients.shape[-2]
        selected = min(self.num_selected or num_workers - self.num_byzantine, num_workers)
        best = self._scores(gradients).sort(dim=-1, stable=True).indices[..., :selected]
        return gradients.new_zeros(gradients.shape[:-1]).scatter_(-1, best, 1 / selected)
