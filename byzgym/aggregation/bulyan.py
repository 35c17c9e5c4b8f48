"""Bulyan: Krum, then the mean around the median."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import Rule
from byzgym.numerics.order_statistics import run_program
from byzgym.numerics.distances import squared_distances
from byzgym.aggregation.krum import krum_scores
from byzgym.numerics.sorting_networks import mean_around_median_program
from byzgym.aggregation.registry import registry
from byzgym.numerics.distances import take_rows


@registry.built_in("bulyan")
class Bulyan(Rule):
    """Pick theta = n - 2f submissions by Krum, then average around the median, n >= 4f + 3.

    Each pick is Krum's choice among the rows not yet picked, whose scores are computed anew on them: of m
    rows left, the sum of squared distances to the m - f - 2 nearest (but at least 1, which concerns the
    last picks only, where Krum's own condition no longer holds). Then in each coordinate the mean of the
    theta - 2f picked values nearest to the median of the picked; of two equally near, the smaller.
    Source: El Mhamdi, Guerraoui and Rouault, "The Hidden Vulnerability of Distributed Learning in
    Byzantium", section 4.
    """

    condition: ClassVar[str] = "n >= 4f + 3"

    @classmethod
    def max_byzantine(cls, num_workers: int) -> int:
        """The largest f that this rule accepts for n workers (-1 where it accepts none)."""
        return max(-1, (num_workers - 3) // 4)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        num_selected = gradients.shape[-2] - 2 * self.num_byzantine
        selected = take_rows(gradients, self._select(gradients, num_selected))
        return run_program(
            mean_around_median_program(num_selected, num_selected - 2 * self.num_byzantine), selected
        )

    def _select(self, gradients: Tensor, num_selected: int) -> Tensor:
        """Indices [..., theta] of the rows that iterated Krum picks."""
        squared = squared_distances(gradients)
        picked = torch.zeros(squared.shape[:-1], dtype=torch.bool, device=squared.device)
        picks = []
        for left in range(gradients.shape[-2], gradients.shape[-2] - num_selected, -1):
            num_neighbors = min(left - 1, max(1, left - self.num_byzantine - 2))
            among_left = squared.masked_fill(picked[..., None, :], torch.inf)
            scores = krum_scores(among_left, num_neighbors)
            pick = scores.masked_fill_(picked, torch.inf).argmin(-1, keepdim=True)
            picked.scatter_(-1, pick, True)
            picks.append(pick)
        return torch.cat(picks, -1)
