"""Brute-Force: the subset with the smallest diameter."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import torch
from torch import Tensor

from byzgym.aggregation.base import HonestMajority, Weighting
from byzgym.numerics.distances import squared_distances
from byzgym.aggregation.registry import registry

# Up to so many subsets are compared one by one, all runs at once; more are searched, run by run.
MOST_SUBSETS = 1000
# Values of scratch when comparing.
SCRATCH = 1 << 22


@registry.built_in("brute_force")
class BruteForce(HonestMajority, Weighting):
    """The mean of the n - f submissions whose largest distance from each other is smallest, n >= 2f + 1.

    Also called minimum-diameter averaging. Of several such subsets the lexicographically first is taken.
    The result is exact for any n and f: where there are too many subsets to compare, which f rows to
    drop is found as a vertex cover of the pairs that are farther apart than a trial diameter.
    Source: El Mhamdi, Guerraoui and Rouault, "The Hidden Vulnerability of Distributed Learning in
    Byzantium", section 2 (Brute).
    """

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
            subset = torch.tensor([_search(matrix, keep) for matrix in squared.tolist()])
        subset = subset.to(gradients.device).reshape(*gradients.shape[:-2], keep)
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
    subsets = torch.tensor(list(itertools.combinations(range(num_rows), keep)))
    first, second = torch.triu_indices(keep, keep, offset=1)
    return subsets, subsets[:, first] * num_rows + subsets[:, second]


def _search(squared: list[list[float]], keep: int) -> list[int]:
    """The best subset of one run: the smallest diameter by bisection, then the first subset within it."""
    num_rows = len(squared)
    diameters = sorted({squared[i][j] for i in range(num_rows) for j in range(i)})
    low, high = 0, len(diameters) - 1
    while low < high:
        middle = (low + high) // 2
        conflicts = _conflicts(squared, diameters[middle])
        if _coverable(conflicts, (1 << num_rows) - 1, num_rows - keep):
            high = middle
        else:
            low = middle + 1
    return _first_subset(_conflicts(squared, diameters[low]), keep)


def _conflicts(squared: list[list[float]], diameter: float) -> list[int]:
    """For each row a bit mask of the rows that are too far from it."""
    return [sum(1 << j for j, value in enumerate(row) if value > diameter) for row in squared]


def _coverable(conflicts: list[int], left: int, budget: int) -> bool:
    """Whether dropping at most ``budget`` of the rows ``left`` (a bit mask) resolves all conflicts."""
    while True:
        most, busiest, lonely, total = 0, -1, -1, 0
        for row in _bits(left):
            degree = (conflicts[row] & left).bit_count()
            total += degree
            if degree > most:
                most, busiest = degree, row
            if degree == 1:
                lonely = row
        if not total:
            return True
        if total > 2 * most * budget:  # not even if every dropped row had that many conflicts
            return False
        if lonely < 0:
            break
        # Dropping the only opponent of a row is never worse than dropping the row.
        left &= ~conflicts[lonely]
        budget -= 1
    opponents = conflicts[busiest] & left
    return _coverable(conflicts, left & ~(1 << busiest), budget - 1) or (
        most <= budget and _coverable(conflicts, left & ~opponents, budget - most)
    )


def _first_subset(conflicts: list[int], keep: int) -> list[int]:
    """The lexicographically first ``keep`` rows without a conflict, of which there are some."""
    left = (1 << len(conflicts)) - 1
    kept: list[int] = []
    for row in range(len(conflicts)):
        if len(kept) == keep:
            break
        if not left >> row & 1:
            continue
        without = left & ~conflicts[row]
        if without.bit_count() >= keep and _coverable(conflicts, without, without.bit_count() - keep):
            left = without
            kept.append(row)
        else:
            left &= ~(1 << row)
    return kept


def _bits(mask: int) -> list[int]:
    return [i for i in range(mask.bit_length()) if mask >> i & 1]
