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

from byzgym.aggregation import CallableRule, Rule, ServerView, make_for
from byzgym.memory import Memory
from byzgym.numerics.distances import take_rows
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
OFFSETS = (0.0, 1.0, 10.0)
"""How far the mean of honest submissions is from zero, in units of their spread; the draws take turns."""
SIZES = (1e6, 1e12, 1e30)
"""How far Byzantine submissions are away, in units of the honest ones' spread."""
ROUNDS = 3
"""In which the same is submitted to a rule that has a memory."""
MOST_SUBSETS = 1000
"""Choices of f workers from which a rule whose cost is exponential in f is told a smaller f."""
UNBOUNDED = 1e3
"""Deviation from the honest mean, in units of the honest ones' spread, from which a rule counts as broken."""
CAN_TIE = frozenset({"permutation", "translation"})
"""Properties that ties can spoil."""


@dataclass(frozen=True)
class Finding:
    """What was found of one property of one rule.

    Attributes:
        name: Of the property, a key of `PROPERTIES`.
        claimed: Whether the rule claims it.
        holds: Whether nothing spoke against it. None where there was nothing to measure, since f is zero, and
            where it may only be for ties: of less than 4 submissions, or with one coordinate, some are
            equally good whatever they are, and a rule that takes one of them takes the first.
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

    @property
    def refuted(self) -> bool:
        """Whether it is claimed and does not hold."""
        return self.claimed and self.holds is False


def measure(
    rule: Any, num_workers: int = 11, dimension: int = 20, draws: int = 20, seed: int = 0
) -> list[Finding]:
    """Measure all properties of a rule, which is told the f that `told` says.

    For "breakdown" it is also told smaller ones, with as many Byzantine workers and with one. Submissions
    are normal around a mean (see `OFFSETS`), in every other draw each with a spread of its own. A rule that
    reads the QV loss finds one more such vector as its gradient. Along it the loss falls for ever, as a
    classifier's does that tells all QV samples apart. The loss stays as it is when submissions change, and so
    do the random draws of a rule. Memories are empty at first.

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
    f = told(rule, num_workers)
    made = make_for(rule, num_workers, f)
    for claim in made.claims:
        check_choice(f"claims of {made!r} (each)", claim, PROPERTIES)
    offsets = torch.tensor(OFFSETS, dtype=torch.float64)[torch.arange(draws) % len(OFFSETS), None, None]
    center = offsets * torch.randn(draws, 1, dimension, generator=generator, dtype=torch.float64)
    away = torch.randn(draws, num_workers + 1, dimension, generator=generator, dtype=torch.float64)
    spread = torch.randn(draws, num_workers + 1, 1, generator=generator, dtype=torch.float64).exp()
    spread[::2] = 1
    rows = center + spread * away
    rows, own = rows[:, :-1], rows[:, -1]
    findings = [
        _finding(made, name, deviation(made, rows, own, generator), rows)
        for name, deviation in _DEVIATIONS.items()
    ]
    rows, own = rows.float(), own.float()  # as they mostly come: rounding is part of what attackers use
    found = _breakdown(rule, made, f, rows, own, generator), _dimensional(made, f, rows, own, generator)
    return [*findings, *found]


def told(rule: Any, num_workers: int) -> int:
    """The largest f that the rule accepts for n workers; less where its cost is exponential in f.

    It is 1 for plain callables, which are told nothing, if there are more than two workers.
    """
    made = make_for(rule, num_workers, num_workers - 1)
    f = int(num_workers > 2) if isinstance(made, CallableRule) else made.num_byzantine
    while made.exponential and f and math.comb(num_workers, f) > MOST_SUBSETS:
        f -= 1
    return f


def _some(first: int, last: int) -> list[int]:
    """Whole numbers from the first to the last: all, or some of many."""
    step = max(1, (last - first) // 10)
    return sorted({*range(first, last + 1, step), last}) if first <= last else []


def _finding(rule: Rule, name: str, worst: float, rows: Tensor) -> Finding:
    _, num_workers, dimension = rows.shape
    holds = worst <= TOLERANCE
    # Between submissions that are equally good rounding decides, which changes when they are moved.
    ties = name in CAN_TIE and (dimension < 2 or (num_workers < 4 and name == "permutation"))
    return Finding(name, name in rule.claims, None if ties and not holds else holds, worst)


def _permutation(rule: Rule, rows: Tensor, own: Tensor, generator: torch.Generator) -> float:
    order = torch.rand(rows.shape[:2], generator=generator).argsort(1)
    return _apart(_updates(rule, take_rows(rows, order), own), _updates(rule, rows, own), rows)


def _translation(rule: Rule, rows: Tensor, own: Tensor, generator: torch.Generator) -> float:
    shift = 3 * torch.randn(len(rows), 1, rows.shape[2], generator=generator, dtype=rows.dtype)
    moved = rows + shift
    return _apart(_updates(rule, moved, own), _updates(rule, rows, own) + shift[:, 0], moved)


def _scale(rule: Rule, rows: Tensor, own: Tensor, generator: torch.Generator) -> float:
    factors = torch.tensor([2.0**-30, 2.0**30], dtype=rows.dtype)[torch.arange(len(rows)) % 2, None, None]
    return _apart(_updates(rule, factors * rows, own) / factors[:, 0], _updates(rule, rows, own), rows)


def _hull(rule: Rule, rows: Tensor, own: Tensor, generator: torch.Generator) -> float:
    from scipy.optimize import nnls  # takes a while to import

    # The median of unit vectors is zero, far from their hull.
    corners = torch.eye(rows.shape[1], dtype=rows.dtype)[None]
    worst = 0.0
    for some, server in ((rows, own), (corners, corners.mean(1))):
        for totals in _updates(rule, some, server):
            for points, total in zip(some, totals, strict=True):
                if not is_finite(total):
                    return math.inf
                size = float(points.abs().max())
                # One equation more demands that the weights sum to 1.
                matrix = torch.cat([points.T / size, torch.ones(1, len(points), dtype=points.dtype)])
                target = torch.cat([total / size, torch.ones(1, dtype=total.dtype)])
                _, rest = nnls(matrix.numpy(), target.numpy(), maxiter=100 * len(points))
                worst = max(worst, float(rest))
    return worst


_DEVIATIONS: dict[str, Callable[[Rule, Tensor, Tensor, torch.Generator], float]] = {
    "permutation": _permutation,
    "translation": _translation,
    "scale": _scale,
    "hull": _hull,
}


def _breakdown(
    rule: Any, made: Rule, most: int, rows: Tensor, own: Tensor, generator: torch.Generator
) -> Finding:
    """Whether f Byzantine workers, or fewer, break a rule that is told f, for every f; and how many do."""
    num_workers, worst, broken_by = rows.shape[1], 0.0, None
    for f in _some(1, most):
        expecting = make_for(rule, num_workers, f)
        for count in {1, f}:
            worst = max(worst, _moved(expecting, rows, own, count, generator))
    for count in [*_some(1, most), *range(most + 1, num_workers)]:
        moved = _moved(made, rows, own, count, generator)
        if count <= most:
            worst = max(worst, moved)
        if moved > UNBOUNDED:
            broken_by = count
            break
    holds = worst <= UNBOUNDED if most else None
    return Finding("breakdown", "breakdown" in made.claims, holds, worst, broken_by)


def _moved(rule: Rule, rows: Tensor, own: Tensor, count: int, generator: torch.Generator) -> float:
    """How far Byzantine submissions of so many workers move the aggregate."""
    num_workers = rows.shape[1]
    worst = 0.0
    for size in SIZES:
        attacks = list(_far_away(rows[:, :count], own, size, generator))
        honest = rows[:, count:].repeat(len(attacks), 1, 1)
        sent = torch.cat([torch.cat(attacks), honest], 1)
        # Byzantine workers are the first ones in every other run, and anybody elsewhere.
        order = torch.rand(sent.shape[:2], generator=generator).argsort(1)
        order[::2] = torch.arange(num_workers)
        total = _updates(rule, take_rows(sent, order), own.repeat(len(attacks), 1))
        worst = max(worst, _from_mean(total, honest))
    return worst


def _far_away(rows: Tensor, own: Tensor, size: float, generator: torch.Generator) -> Iterator[Tensor]:
    """What Byzantine workers may submit in place of rows [E, b, d], with entries up to ``size``."""
    _, count, dimension = rows.shape
    directions = 2 * torch.rand(rows.shape, generator=generator, dtype=rows.dtype) - 1
    direction = directions[:, :1]
    steps = torch.linspace(1, 0, count, dtype=rows.dtype)[:, None]
    sides = 1 - 2 * (torch.arange(count) % 2)[:, None]
    axes = torch.eye(dimension, dtype=rows.dtype)[torch.arange(count) % dimension]  # [b, d]
    yield (size * direction).expand_as(rows)  # all the same
    yield size * direction + rows  # as alike as honest ones
    yield size * directions  # here and there
    yield size**steps * direction  # one farther than the other
    yield size**steps * directions  # here and there as well
    yield size * direction * sides + rows  # opposite pairs
    yield size * axes[0] + rows  # in one coordinate
    yield size * axes * sides + rows  # in one coordinate each
    ahead = own / own.abs().amax(1, keepdim=True)
    yield (size * ahead)[:, None].expand_as(rows)  # where the server's loss falls


def _dimensional(rule: Rule, f: int, rows: Tensor, own: Tensor, generator: torch.Generator) -> Finding:
    """Whether corrupted values of any workers, at most f in a coordinate, move the aggregate."""
    _, num_workers, dimension = rows.shape
    worst = 0.0
    everywhere = torch.rand(rows.shape, generator=generator).argsort(1) < f
    single = torch.arange(num_workers)[:, None] % dimension == torch.arange(dimension)  # one of each worker
    masks = [everywhere, single] if num_workers <= f * dimension else [everywhere]
    for size in SIZES:
        mixed = 2 * torch.rand(rows.shape, generator=generator, dtype=rows.dtype) - 1
        alike = torch.full_like(rows, size)
        values = [alike, -alike, mixed.sign() * size ** mixed.abs()]  # or near and far, on both sides
        sent = torch.cat([torch.where(corrupt, value, rows) for corrupt in masks for value in values])
        times = len(masks) * len(values)
        total = _updates(rule, sent, own.repeat(times, 1))
        worst = max(worst, _from_mean(total, rows.repeat(times, 1, 1)))
    return Finding("dimensional", "dimensional" in rule.claims, worst <= UNBOUNDED if f else None, worst)


def _updates(rule: Rule, rows: Tensor, own: Tensor) -> Tensor:
    """The updates [T, E, d] from the same submissions [E, n, d] in T rounds.

    The gradient of the server's own QV loss is ``own`` [E, d]. T is 1 for rules without a memory.
    """
    own = own.double()  # so that a step far along it seems to have nothing across
    squared = own.square().sum(1)

    def qv_loss(theta: Tensor) -> Tensor:
        along = (theta * own).sum(1)
        across = theta - (along / squared)[:, None] * own
        return 2 * torch.nn.functional.softplus(along) + squared * across.square().sum(1) / 2

    memory, updates = Memory(len(rows)), []
    for number in range(ROUNDS if "memory" in rule.needs else 1):
        view = ServerView(
            gradients=rows,
            theta=torch.zeros_like(rows[:, 0]),
            learning_rate=1 / squared,  # a step along `own` is neither short nor long
            qv_loss=qv_loss,
            round=torch.full((len(rows),), number),
            seed=torch.arange(len(rows)),
            memory=memory,
        )
        updates.append(rule.decide(view).update)
    return torch.stack(updates)


def _apart(ones: Tensor, others: Tensor, rows: Tensor) -> float:
    """The largest difference of updates [T, E, d], in units of the largest entry of the submissions."""
    return _worst((ones - others).abs().amax(2) / rows.abs().amax((1, 2)))


def _from_mean(updates: Tensor, honest: Tensor) -> float:
    """The largest distance of updates [T, E, d] from the honest mean, in units of the honest ones' spread."""
    updates, honest = updates.double(), honest.double()
    mean = honest.mean(1, keepdim=True)
    spread = torch.linalg.vector_norm(honest - mean, dim=2).amax(1)
    alone = torch.linalg.vector_norm(mean[:, 0], dim=1)  # the unit where one honest worker is left
    return _worst(torch.linalg.vector_norm(updates - mean[:, 0], dim=2) / torch.maximum(spread, alone))


def _worst(deviations: Tensor) -> float:
    worst = float(deviations.max())
    return worst if math.isfinite(worst) else math.inf
