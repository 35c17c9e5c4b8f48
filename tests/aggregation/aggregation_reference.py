"""Slow and simple references in numpy, written from the definitions and from nothing in the package.

Where rounding or a tie leaves a choice open, a reference gives every outcome that is right.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

LINE = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]])
"""Submissions for which results are worked out by hand."""

RTOL = {torch.float32: 1e-3, torch.float64: 1e-7}


def distances(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return np.array([[np.sqrt(np.sum((a - b) ** 2)) for b in rows] for a in rows])


def krum_scores(rows, num_byzantine):
    squared = distances(rows) ** 2
    n = len(squared)
    return np.array([np.sort(np.delete(squared[i], i))[: n - num_byzantine - 2].sum() for i in range(n)])


def median(rows):
    ordered = np.sort(np.asarray(rows, dtype=np.float64), axis=0)
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def trimmed_mean(rows, num_byzantine):
    ordered = np.sort(np.asarray(rows, dtype=np.float64), axis=0)
    kept = ordered[num_byzantine : len(ordered) - num_byzantine]
    return kept.mean(0), np.abs(kept).max(0)


def is_mean_around_median(rows, keep, result, rtol):
    """Whether each coordinate is the mean of ``keep`` values none of which is farther than it may be."""
    ordered = np.sort(np.asarray(rows, dtype=np.float64), axis=0)
    around = np.abs(ordered - median(rows))
    farthest_allowed = np.sort(around, axis=0)[keep - 1]
    right = np.zeros(ordered.shape[1], dtype=bool)
    for start in range(len(ordered) - keep + 1):
        window = slice(start, start + keep)
        nearest = around[window].max(0) <= farthest_allowed * (1 + 4 * rtol)
        error = np.abs(ordered[window].mean(0) - result)
        right |= nearest & (error <= rtol * np.abs(ordered[window]).max(0))
    return right.all()


def medoid_objective(rows, point):
    return np.sqrt(((np.asarray(rows, dtype=np.float64) - point) ** 2).sum(1)).sum()


def geometric_median(rows, iterations=20000):
    """Vardi and Zhang's modified Weiszfeld iteration on the vectors themselves."""
    rows = np.asarray(rows, dtype=np.float64)
    between = distances(rows)
    point = rows[between.sum(1).argmin()]
    for _ in range(iterations):
        difference = rows - point
        length = np.sqrt((difference**2).sum(1))
        away = length > 0
        if not away.any():
            return point
        inverse = 1 / length[away]
        pull = np.linalg.norm((difference[away] * inverse[:, None]).sum(0))
        multiplicity = (~away).sum()
        if pull <= multiplicity:
            return point
        target = (rows[away] * inverse[:, None]).sum(0) / inverse.sum()
        last, point = point, target + multiplicity / pull * (point - target)
        if np.abs(point - last).max() <= 1e-11 * np.median(length):
            break
    return point


def faba_outcomes(rows, num_byzantine, rtol):
    """Every set of rows that may be left."""
    rows = np.asarray(rows, dtype=np.float64)
    outcomes = {frozenset(range(len(rows)))}
    for _ in range(num_byzantine):
        following = set()
        for kept in outcomes:
            members = sorted(kept)
            scale = np.abs(rows[members]).max() or 1.0
            center = (rows[members] / scale).mean(0)
            far = np.sqrt(((rows[members] / scale - center) ** 2).sum(1))
            following |= {
                kept - {m} for m, x in zip(members, far, strict=True) if x >= far.max() * (1 - rtol)
            }
        outcomes = following
    return outcomes


def bulyan_selections(rows, num_byzantine, rtol):
    """Every set of rows that iterated Krum may pick."""
    squared = distances(rows) ** 2
    n, f = len(squared), num_byzantine
    outcomes = {frozenset()}
    for step in range(n - 2 * f):
        following = set()
        for picked in outcomes:
            left = [i for i in range(n) if i not in picked]
            num_neighbors = max(1, n - step - f - 2)
            scores = np.array(
                [np.sort([squared[i, j] for j in left if j != i])[:num_neighbors].sum() for i in left]
            )
            following |= {
                picked | {i}
                for i, score in zip(left, scores, strict=True)
                if score <= scores.min() * (1 + rtol)
            }
        outcomes = following
    return outcomes


def diameter(rows, subset):
    between = distances(rows)
    return max((between[i, j] for i, j in itertools.combinations(subset, 2)), default=0.0)


def smallest_diameter(rows, keep):
    between = distances(rows)
    subsets = itertools.combinations(range(len(rows)), keep)
    return min(between[np.ix_(subset, subset)].max() for subset in subsets)


FAMILIES = ("gaussian", "ties", "equal_rows", "row_magnitudes")
FAMILIES += ("entry_magnitudes", "offset", "far_cluster", "zeros")

every_family = pytest.mark.parametrize("family", FAMILIES)
both_types = pytest.mark.parametrize("dtype", list(RTOL), ids=str)
sizes = pytest.mark.parametrize(("n", "f"), [(3, 0), (5, 1), (9, 3), (12, 4), (21, 7), (60, 28)])


def chosen(credits):
    """The indices of the rows with credit, which must be equal."""
    indices = credits.nonzero()[:, 0].tolist()
    torch.testing.assert_close(credits[indices], torch.full_like(credits[indices], 1 / len(indices)))
    return indices


def draw(family, n, d, seed, dtype=torch.float32):
    """Rows [n, d] of a family that is hard in its own way."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def magnitudes(*shape):
        return 10 ** (60 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 30)

    rows = normal(n, d)
    few = max(1, n // 4)
    if family == "ties":
        rows = torch.randint(-2, 3, (n, d), generator=generator).double()
    elif family == "equal_rows":
        rows[1 : few + 1] = rows[0]
    elif family == "row_magnitudes":
        rows *= magnitudes(n, 1)
    elif family == "entry_magnitudes":
        rows *= magnitudes(n, d)
    elif family == "offset":
        rows = 1 + 1e-4 * rows
    elif family == "far_cluster":
        rows[:few] = 1e20 * (normal(1, d) + 1e-5 * rows[:few])
    elif family == "zeros":
        rows[:few] = 0
    return rows.to(dtype)
