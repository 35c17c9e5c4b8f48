"""What rules promise, measured: `byzgym properties` prints the worst deviation found beside each claim.

A rule says in its class attribute ``claims`` what its paper or its definition promises, in the words of
`PROPERTIES`. `measure` tries to refute each, and measures what is not claimed as well. It takes what
`byzgym.aggregation.make_for` takes, so also rules of yours, and rules behind pre-aggregators.

Example:
    >>> for finding in measure("median", num_workers=7, draws=5):
    ...     print(finding.name, finding.claimed, finding.holds)
    permutation True True
    translation True True
    scale True True
    hull False False
    breakdown True True
    dimensional True True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from byzgym.aggregation import Rule, ServerRule, ServerView, make_for
from byzgym.memory import Memory
from byzgym.numerics.finite import is_finite
from byzgym.validation import check_choice, check_int

PROPERTIES = {
    "permutation": "the order of the workers has no effect",
    "translation": "adding a vector to every submission adds it to the aggregate",
    "scale": "multiplying every submission by a positive number multiplies the aggregate by it",
    "hull": "the aggregate is in the convex hull of the submissions",
    "breakdown": "f Byzantine workers cannot move the aggregate without bound",
    "dimensional": "nor can f corrupted values in each coordinate, where every worker may have one "
    "(the generalised model of Xie, Koyejo and Gupta 2018, https://arxiv.org/abs/1802.10116)",
}
"""What is measured, and what it means. A rule's ``claims`` are some of these names."""
TOLERANCE = 1e-4
"""The largest deviation, in units of the largest entry of the submissions, that counts as rounding."""
SIZES = (1e6, 1e12)
"""How far Byzantine submissions are away, in units of the honest ones' spread."""
MOST_SUBSETS = 1000
"""Choices of f workers from which a rule whose cost is exponential in f is told a smaller f."""
UNBOUNDED = 1e3
"""Deviation from the honest mean, in units of the honest ones' spread, from which a rule counts as broken."""


@dataclass(frozen=True)
class Finding:
    """What was found of one property of one rule.

    Attributes:
        name: Of the property, a key of `PROPERTIES`.
        claimed: Whether the rule claims it.
        holds: Whether nothing spoke against it; None where there was nothing to measure.
        worst: The largest deviation found: in units of the largest entry for the first four, from the honest
            mean in units of the honest submissions' spread for the others.
        broken_by: For "breakdown", the smallest number of Byzantine workers that broke the rule, which was
            told the f that `told` says; None where no number did.
    """

    name: str
    claimed: bool
    holds: bool | None
    worst: float
    broken_by: int | None = None


def measure(
    rule: Any, num_workers: int = 11, dimension: int = 20, draws: int = 20, seed: int = 0
) -> list[Finding]:
    """Measure all properties of a rule, which is told the f that `told` says.

    For "breakdown" it is also told smaller ones, with as many Byzantine workers. A rule that reads the QV
    loss finds the mean of the honest submissions as its gradient, and memories are empty.

    Args:
        rule: A name, "name:key=value", a mapping with a "name", a rule or a callable.
        num_workers: The number n of submissions, at least 1.
        dimension: Their length d, at least 1.
        draws: How many sets of submissions are drawn for each measurement, at least 1.
        seed: Of the draws, at least 0.

    Raises:
        ValueError: If a value is not allowed, the name is unknown, or the rule accepts no f for so few.
        TypeError: If a parameter does not exist.
    """
    check_int("num_workers", num_workers, low=1)
    check_int("dimension", dimension, low=1)
    check_int("draws", draws, low=1)
    generator = torch.Generator().manual_seed(check_int("seed", seed, low=0))
    made = make_for(rule, num_workers, told(rule, num_workers))
    for claim in made.claims:
        check_choice(f"claims of {made!r} (each)", claim, PROPERTIES)
    rows = torch.randn(draws, num_workers, dimension, generator=generator, dtype=torch.float64)
    findings = [
        _finding(made, name, deviation(made, rows, generator)) for name, deviation in _DEVIATIONS.items()
    ]
    return [*findings, _breakdown(rule, made, rows, generator), _dimensional(made, rows, generator)]


def told(rule: Any, num_workers: int) -> int:
    """The largest f that the rule accepts for n workers; less where its cost is exponential in f."""
    made = make_for(rule, num_workers, num_workers - 1)
    f = made.num_byzantine
    while made.exponential and f and math.comb(num_workers, f) > MOST_SUBSETS:
        f -= 1
    return f


def _some(first: int, last: int) -> list[int]:
    """Whole numbers from the first to the last: all, or some of many."""
    step = max(1, (last - first) // 10)
    return sorted({*range(first, last + 1, step), last}) if first <= last else []


def _finding(rule: Rule, name: str, worst: float) -> Finding:
    return Finding(name, name in rule.claims, worst <= TOLERANCE, worst)


def _permutation(rule: Rule, rows: Tensor, generator: torch.Generator) -> float:
    order = torch.randperm(rows.shape[1], generator=generator)
    return _apart(_aggregate(rule, rows[:, order]), _aggregate(rule, rows), rows)


def _translation(rule: Rule, rows: Tensor, generator: torch.Generator) -> float:
    shift = 3 * torch.randn(len(rows), 1, rows.shape[2], generator=generator, dtype=rows.dtype)
    moved = rows + shift
    return _apart(_aggregate(rule, moved), _aggregate(rule, rows) + shift[:, 0], moved)


def _scale(rule: Rule, rows: Tensor, generator: torch.Generator) -> float:
    exponents = torch.randint(-30, 31, (len(rows), 1, 1), generator=generator).to(rows.dtype)
    factors = torch.exp2(exponents)  # exact
    return _apart(_aggregate(rule, factors * rows) / factors[:, 0], _aggregate(rule, rows), rows)


def _hull(rule: Rule, rows: Tensor, generator: torch.Generator) -> float:
    from scipy.optimize import nnls  # takes a while to import

    # The median of unit vectors is zero, far from their hull.
    corners = torch.eye(rows.shape[1], dtype=rows.dtype)[None]
    worst = 0.0
    for some in (rows, corners):
        for points, total in zip(some, _aggregate(rule, some), strict=True):
            if not is_finite(total):
                return math.inf
            size = float(points.abs().max())
            # One equation more demands that the weights sum to 1.
            matrix = torch.cat([points.T / size, torch.ones(1, len(points), dtype=points.dtype)])
            target = torch.cat([total / size, torch.ones(1, dtype=total.dtype)])
            _, rest = nnls(matrix.numpy(), target.numpy(), maxiter=100 * len(points))
            worst = max(worst, float(rest))
    return worst


_DEVIATIONS: dict[str, Callable[[Rule, Tensor, torch.Generator], float]] = {
    "permutation": _permutation,
    "translation": _translation,
    "scale": _scale,
    "hull": _hull,
}


def _breakdown(rule: Any, made: Rule, rows: Tensor, generator: torch.Generator) -> Finding:
    """Whether f Byzantine workers break a rule that is told f, for every f, and how many do."""
    most, num_workers = made.num_byzantine, rows.shape[1]
    worst, broken_by = 0.0, None
    for f in _some(1, most):
        worst = max(worst, _moved(make_for(rule, num_workers, f), rows, f, generator))
    for count in [*_some(1, most), *range(most + 1, num_workers)]:
        moved = _moved(made, rows, count, generator)
        if count <= most:
            worst = max(worst, moved)
        if moved > UNBOUNDED:
            broken_by = count
            break
    holds = worst <= UNBOUNDED if most else None
    return Finding("breakdown", "breakdown" in made.claims, holds, worst, broken_by)


def _moved(rule: Rule, rows: Tensor, count: int, generator: torch.Generator) -> float:
    """How far Byzantine submissions of so many workers move the aggregate."""
    honest = rows[:, count:]
    worst = 0.0
    for size in SIZES:
        for byzantine in _far_away(rows[:, :count], size, generator):
            total = _aggregate(rule, torch.cat([byzantine, honest], 1), honest)
            worst = max(worst, _from_mean(total, honest))
    return worst


def _far_away(rows: Tensor, size: float, generator: torch.Generator) -> Iterator[Tensor]:
    """What Byzantine workers may submit in place of rows [E, b, d]."""
    direction = torch.randn(len(rows), 1, rows.shape[2], generator=generator, dtype=rows.dtype)
    steps = torch.linspace(1, 0, rows.shape[1], dtype=rows.dtype)[:, None]
    yield (size * direction).expand_as(rows)  # all the same
    yield size * direction + rows  # as alike as honest ones
    yield size * torch.randn(rows.shape, generator=generator, dtype=rows.dtype)  # here and there
    yield size**steps * direction  # one farther than the other
    yield size * direction * (1 - 2 * (torch.arange(rows.shape[1]) % 2))[:, None]  # on both sides


def _dimensional(rule: Rule, rows: Tensor, generator: torch.Generator) -> Finding:
    """Whether corrupted values of any workers, at most f in a coordinate, move the aggregate."""
    f, worst = rule.num_byzantine, 0.0
    _, num_workers, dimension = rows.shape
    everywhere = torch.rand(rows.shape, generator=generator).argsort(1) < f
    single = torch.arange(num_workers)[:, None] % dimension == torch.arange(dimension)  # one of each worker
    masks = [everywhere, single] if num_workers <= f * dimension else [everywhere]
    for size in SIZES:
        for corrupt in masks:
            for value in (size, -size):
                corrupted = torch.where(corrupt, value, rows)
                worst = max(worst, _from_mean(_aggregate(rule, corrupted, rows), rows))
    return Finding("dimensional", "dimensional" in rule.claims, worst <= UNBOUNDED if f else None, worst)


def _aggregate(rule: Rule, rows: Tensor, honest: Tensor | None = None) -> Tensor:
    """The aggregate [E, d] of submissions [E, n, d]; the server's own gradient is the honest ones' mean."""
    if not isinstance(rule, ServerRule):
        return rule(rows)
    own = (rows if honest is None else honest).mean(1)
    view = ServerView(
        gradients=rows,
        theta=torch.zeros_like(own),
        learning_rate=torch.full((len(rows),), 0.1, dtype=rows.dtype),
        qv_loss=lambda theta: (theta + own).square().sum(1) / 2,
        memory=Memory(len(rows)),
    )
    return rule.decide(view).update


def _apart(one: Tensor, other: Tensor, rows: Tensor) -> float:
    """The largest difference of two aggregates [E, d], in units of the largest entry of the submissions."""
    return _worst((one - other).abs().amax(1) / rows.abs().amax((1, 2)))


def _from_mean(total: Tensor, honest: Tensor) -> float:
    """The largest distance of an aggregate from the honest mean, in units of the honest ones' spread."""
    mean = honest.mean(1, keepdim=True)
    spread = torch.linalg.vector_norm(honest - mean, dim=2).amax(1)
    alone = torch.linalg.vector_norm(mean[:, 0], dim=1)  # the unit where one honest worker is left
    return _worst(torch.linalg.vector_norm(total - mean[:, 0], dim=1) / torch.maximum(spread, alone))


def _worst(deviations: Tensor) -> float:
    worst = float(deviations.max())
    return worst if math.isfinite(worst) else math.inf
