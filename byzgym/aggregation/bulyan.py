"""Bulyan: Krum, then the mean around the median."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import Rule
from byzgym.aggregation.krum import krum_scores
from byzgym.aggregation.registry import registry
from byzgym.numerics.distances import squared_distances, take_rows
from byzgym.numerics.order_statistics import run_program
from byzgym.numerics.sorting_networks import mean_around_median_program


@registry.built_in("bulyan")
class Bulyan(Rule):
    """Bulyan of El Mhamdi, Guerraoui and Rouault 2018, "The Hidden Vulnerability of Distributed Learning in
    Byzantium" (https://arxiv.org/abs/1802.07927). It averages, in each coordinate, the values nearest to the
    median among the submissions that Krum picks.

    Krum picks theta = n - 2f submissions one by one, each time among those not yet picked: of m left, the
    scores count the m - f - 2 nearest neighbours, but at least 1. In each coordinate the theta - 2f picked
    values nearest to their median are averaged; of two equally near, the smaller counts. Other libraries pick
    all at once with Multi-Krum (Flower's newer API) or average theta = n - 2f - 2 results of Multi-Krum
    (krum, AggregaThor).

    Condition: n >= 4f + 3. Cost: n^2 d. Not differentiable: results are detached.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [50.0]])  # picks 3, 2, 1, 4, 0
        >>> Bulyan(num_byzantine=1)(rows)
        tensor([2.])
    """

    # Dimensional: of the n - 2f values of a coordinate that are left, at most f are corrupted.
    claims: ClassVar[frozenset[str]] = frozenset({"translation", "scale", "breakdown", "dimensional"})
    condition: ClassVar[str] = "n >= 4f + 3"
    differentiable: ClassVar[bool] = False
    symmetric: ClassVar[bool] = False  # two submissions nearest to each other can tie for the last picks

    @classmethod
    def max_byzantine(cls, num_workers: int) -> int:
        """The largest f that this rule accepts for n workers (-1 where it accepts none)."""
        return max(-1, (num_workers - 3) // 4)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        num_selected = gradients.shape[-2] - 2 * self.num_byzantine
        selected = take_rows(gradients, self._select(gradients, num_selected))
        program = mean_around_median_program(num_selected, num_selected - 2 * self.num_byzantine)
        return run_program(program, selected)

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
