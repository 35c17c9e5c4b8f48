"""Smallest maximum eigenvalue averaging."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from byzgym.aggregation.base import EQUIVARIANT, HonestMajority, Weighting
from byzgym.aggregation.registry import registry
from byzgym.numerics.distances import squared_distances

MOST_SUBSETS = 10_000_000
"""Of n - f submissions: more are refused, since comparing them would take hours or years."""
AT_ONCE = 5000
"""Up to so many subsets are compared for all runs at once; more are searched, run by run."""
SCRATCH = 1 << 21
"""Values of scratch when comparing."""


@registry.built_in("smea")
class SMEA(HonestMajority, Weighting):
    """Smallest maximum eigenvalue averaging (SMEA) of Allouah, Guerraoui, Gupta, Pinot and Stephan 2023, "On
    the Privacy-Robustness-Utility Trilemma in Distributed Learning" (https://arxiv.org/abs/2302.04787). It
    averages the n - f submissions that spread least in their widest direction.

    They are the subset whose covariance matrix has the smallest largest eigenvalue; the paper leaves open
    which of several. The eigenvalues are exact, as in the code of one of the authors (minimum eigenvalue
    averaging). ByzFL estimates each by one step of the power method from a random vector, so its choice
    differs from call to call.

    Condition: n >= 2f + 1, and at most 10,000,000 subsets. Cost: n^2 d, and (n - f)^3 for each of the C(n, f)
    subsets that holds no pair of submissions too far apart.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]])  # the variance of 0, 1, 2 is 2/3
        >>> SMEA(num_byzantine=2)(rows)
        tensor([1.])
    """

    claims: ClassVar[frozenset[str]] = EQUIVARIANT | {"hull", "breakdown"}
    exponential: ClassVar[bool] = True
    condition: ClassVar[str] = f"n >= 2f + 1 and C(n, f) <= {MOST_SUBSETS:,}"

    @classmethod
    def max_byzantine(cls, num_workers: int) -> int:
        """The largest f that this rule accepts for n workers (-1 where it accepts none)."""
        largest = super().max_byzantine(num_workers)
        while largest > 0 and math.comb(num_workers, largest) > MOST_SUBSETS:
            largest -= 1
        return largest

    def _credits(self, gradients: Tensor) -> Tensor:
        num_workers = gradients.shape[-2]
        keep = num_workers - self.num_byzantine
        credits = gradients.new_zeros(gradients.shape[:-1])
        if keep == num_workers:
            return credits.fill_(1 / num_workers)
        squared = squared_distances(gradients).reshape(-1, num_workers, num_workers)
        subset = _search(squared, keep).reshape(*gradients.shape[:-2], keep)
        return credits.scatter_(-1, subset, 1 / keep)


def _search(squared: Tensor, keep: int) -> Tensor:
    """The best subset [E, keep] of each run, from squared distances [E, n, n]."""
    num_rows = squared.shape[-1]
    # Each row with its nearest ones: among these is a good subset, with which others can be ruled out.
    chosen = squared.sort(dim=-1, stable=True).indices[..., :keep].sort(-1).values  # [E, n, keep]
    least, index = _largest_eigenvalues(squared[:, None], chosen).min(-1)
    best = chosen[torch.arange(len(chosen), device=chosen.device), index]
    if math.comb(num_rows, keep) <= AT_ONCE:
        _improve(squared, least, best, itertools.combinations(range(num_rows), keep))
    else:
        for run in range(len(squared)):
            part = slice(run, run + 1)
            near = (squared[run] / 2 < least[run]).tolist()
            _improve(squared[part], least[part], best[part], _mutually_near(near, keep))
    return best


def _improve(squared: Tensor, least: Tensor, best: Tensor, subsets: Iterable[Sequence[int]]) -> None:
    """Put better subsets into ``best`` [E, keep], and their eigenvalues into ``least`` [E]."""
    keep = best.shape[1]
    first, second = torch.triu_indices(keep, keep, offset=1, device=squared.device)
    left = iter(subsets)
    while part := list(itertools.islice(left, max(1, SCRATCH // (len(squared) * keep**2)))):
        flat = np.fromiter(itertools.chain.from_iterable(part), np.int64, len(part) * keep)
        tried = torch.from_numpy(flat).reshape(-1, keep).to(squared.device)  # [s, keep]
        # Two submissions alone spread by half of their squared distance, and others only add to it.
        pairs = tried[:, first] * squared.shape[-1] + tried[:, second]
        bound = squared.flatten(1)[:, pairs].amax(-1) / 2
        runs, number = (bound < least[:, None]).nonzero(as_tuple=True)
        values = torch.full_like(bound, torch.inf)
        values[runs, number] = _largest_eigenvalues(squared[runs], tried[number])
        value, index = values.min(-1)
        better = value < least
        least[better], best[better] = value[better], tried[index[better]]


def _mutually_near(near: list[list[bool]], keep: int) -> Iterator[list[int]]:
    """All subsets of ``keep`` rows any two of which are near each other, in lexicographic order.

    >>> list(_mutually_near([[True, True, False], [True, True, True], [False, True, True]], 2))
    [[0, 1], [1, 2]]
    """
    later = [sum(1 << j for j in range(i + 1, len(near)) if near[i][j]) for i in range(len(near))]

    def extend(members: list[int], left: int) -> Iterator[list[int]]:
        if len(members) == keep:
            yield members
        while len(members) < keep <= len(members) + left.bit_count():
            row = (left & -left).bit_length() - 1
            left &= left - 1
            yield from extend([*members, row], left & later[row])

    return extend([], (1 << len(near)) - 1)


def _largest_eigenvalues(squared: Tensor, subsets: Tensor) -> Tensor:
    """The largest eigenvalue [...] of the scatter matrix of subsets [..., k] of points.

    It is that of the points' inner products about their mean, which follow from the squared distances
    [..., n, n].
    """
    keep = subsets.shape[-1]
    squared = squared.expand(*subsets.shape[:-1], *squared.shape[-2:])
    among = squared.gather(-2, subsets[..., None].expand(*subsets.shape, squared.shape[-1]))
    among = among.gather(-1, subsets[..., None, :].expand(*subsets.shape, keep))
    means = among.mean(-1, keepdim=True)
    products = (means + means.mT - among - means.mean(-2, keepdim=True)) / 2
    return torch.linalg.eigvalsh(products)[..., -1].clamp_min(0)
