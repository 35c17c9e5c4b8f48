"""Brute-Force, or minimum-diameter averaging (MDA)."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import HonestMajority, Weighting
from byzgym.aggregation.registry import registry
from byzgym.numerics.distances import squared_distances

# Up to this many subsets are compared one by one, all runs at once; more are searched, run by run.
MOST_SUBSETS = 1000
# Values of scratch when comparing.
SCRATCH = 1 << 22


@registry.built_in("brute_force")
class BruteForce(HonestMajority, Weighting):
    """Brute-Force of El Mhamdi, Guerraoui and Rouault 2018, "The Hidden Vulnerability of Distributed Learning
    in Byzantium" (https://arxiv.org/abs/1802.07927). It averages the n - f submissions that are closest
    together.

    They are the subset with the smallest diameter, which is the largest distance between two of them; of
    several such subsets, the lexicographically first. ByzFL calls the rule minimum-diameter averaging
    (MDA). It is exact for any n and f: where there are too many subsets to compare, the f
    submissions to drop are found as a vertex cover of the pairs that are farther apart than a trial diameter.

    Condition: n >= 2f + 1. Cost: n^2 d, and exponential in f at worst.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]])  # keeps 0, 1, 2
        >>> BruteForce(num_byzantine=2)(rows)
        tensor([1.])
    """

    exponential: ClassVar[bool] = True
    claims: ClassVar[frozenset[str]] = frozenset({"translation", "scale", "hull", "breakdown"})
    symmetric: ClassVar[bool] = False  # the two farthest apart decide, so that several subsets tie

    def _credits(self, gradients: Tensor) -> Tensor:
        num_workers = gradients.shape[-2]
        keep = num_workers - self.num_byzantine
        credits = gradients.new_zeros(gradients.shape[:-1])
        if keep == num_workers:
            return credits.fill_(1 / num_workers)
        squared = squared_distances(gradients).reshape(-1, num_workers, num_workers)
        if math.comb(num_workers, keep) <= MOST_SUBSETS:
            subset = _compare_subsets(squared, keep)
        else:
            found = [_search(matrix, keep) for matrix in squared.tolist()]
            subset = torch.tensor(found, device=gradients.device)
        subset = subset.reshape(*gradients.shape[:-2], keep)
        return credits.scatter_(-1, subset, 1 / keep)


def _compare_subsets(squared: Tensor, keep: int) -> Tensor:
    """The best subset [E, keep] of each run, from squared distances [E, n, n]."""
    subsets, pairs = _subsets(squared.shape[-1], keep)
    subsets, pairs = subsets.to(squared.device), pairs.to(squared.device)
    chunks = torch.split(squared.flatten(1), max(1, SCRATCH // pairs.numel()))
    best = [chunk[:, pairs].amax(-1).argmin(-1) for chunk in chunks]
    return subsets[torch.cat(best)]


@lru_cache(maxsize=32)
def _subsets(num_rows: int, keep: int) -> tuple[Tensor, Tensor]:
    """All subsets [s, keep] in lexicographic order, and their pairs [s, p] as indices into a flat matrix."""
    subsets = torch.tensor(list(itertools.combinations(range(num_rows), keep)), device="cpu")
    first, second = torch.triu_indices(keep, keep, offset=1, device="cpu")
    return subsets, subsets[:, first] * num_rows + subsets[:, second]


def _search(squared: list[list[float]], keep: int) -> list[int]:
    """The best subset of one run: the smallest diameter by bisection, then the first subset within it."""
    num_rows = len(squared)
    everyone = (1 << num_rows) - 1
    diameters = sorted({squared[i][j] for i in range(num_rows) for j in range(i)})

    def suffices(diameter: float) -> bool:
        return _coverable(_conflicts(squared, diameter), everyone, num_rows - keep)

    smallest = diameters[bisect_left(diameters, True, hi=len(diameters) - 1, key=suffices)]
    return _first_subset(_conflicts(squared, smallest), keep)


def _conflicts(squared: list[list[float]], diameter: float) -> list[int]:
    """For each row a bit mask of the rows that are too far from it."""
    return [sum(1 << j for j, value in enumerate(row) if value > diameter) for row in squared]


def _coverable(conflicts: list[int], left: int, budget: int) -> bool:
    """Whether dropping at most ``budget`` of the rows ``left`` (a bit mask) resolves all conflicts."""
    degrees = {row: (conflicts[row] & left).bit_count() for row in _bits(left)}
    busiest = max(degrees, key=degrees.__getitem__)
    most = degrees[busiest]
    if not most:
        return True
    if sum(degrees.values()) > 2 * most * budget:  # too many, even if every dropped row had that many
        return False
    # Either the busiest row is dropped, or all its opponents are.
    opponents = conflicts[busiest] & left
    return _coverable(conflicts, left & ~(1 << busiest), budget - 1) or (
        most <= budget and _coverable(conflicts, left & ~opponents, budget - most)
    )


def _first_subset(conflicts: list[int], keep: int) -> list[int]:
    """The lexicographically first ``keep`` rows without a conflict, of which there are some."""
    left = (1 << len(conflicts)) - 1
    kept: list[int] = []
    for row in range(len(conflicts)):
        if len(kept) < keep and left >> row & 1:
            without = left & ~conflicts[row]
            if without.bit_count() >= keep and _coverable(conflicts, without, without.bit_count() - keep):
                left = without
                kept.append(row)
            else:
                left &= ~(1 << row)
    return kept


def _bits(mask: int) -> list[int]:
    return [i for i in range(mask.bit_length()) if mask >> i & 1]
