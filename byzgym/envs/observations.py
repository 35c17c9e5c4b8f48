"""Observations, built from the `ServerView` and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from byzgym.aggregation import ServerView
from byzgym.aggregation.evidence import RATE, pass_on, running_mean
from byzgym.ambient import without_autocast
from byzgym.envs.config import EnvConfig
from byzgym.numerics.distances import unit_rows
from byzgym.numerics.sketch import Sketch
from byzgym.validation import check_choice, check_int

BOUND = 100.0
"""Bound of compressed values that may leave the range of float32 before they are compressed."""
LARGEST_LOG = 89.0
"""Bound of log(1 + x) for x in float32."""
LARGEST_RATIO = 10.0
"""Bound of logarithms of ratios of norms."""
POOL_SIZE = 128
"""Default size of the pooled observation."""
POOLINGS = ("sketch", "blocks")
RATES = (0.1, 0.03)
"""Weights of a round in the running means of the part ``history``: about 10 and 33 rounds count."""


class ObservationBuilder:
    """Turns views into observations: a Box for a name from `PARTS`, a Dict for a list of names or "all"."""

    def __init__(
        self,
        spec: str | Sequence[str],
        pool_size: int | None,
        num_rows: int,
        num_parameters: int,
        rounds: int,
        pooling: str = POOLINGS[0],
    ) -> None:
        known = list(PARTS)
        names = spec if not isinstance(spec, str) else known if spec == "all" else [spec]
        valid = isinstance(names, Sequence) and all(p in known and names.count(p) == 1 for p in names)
        if not valid or not names:
            allowed = ", ".join(map(repr, [*known, "all"])) + " or a list of different parts"
            raise ValueError(f"observation must be one of {allowed}, got {spec!r}")
        pool_size = min(POOL_SIZE, num_parameters) if pool_size is None else pool_size
        self.pool_size = check_int("pool_size", pool_size, low=1, high=num_parameters)
        sketched = check_choice("pooling", pooling, POOLINGS) == "sketch"
        self.pool: Callable[[Tensor], Tensor] = (
            Sketch(num_parameters, pool_size) if sketched else partial(block_means, size=pool_size)
        )
        self.spread = pool_size if sketched else num_parameters
        """Over how many entries of its size a pooled row spreads its norm."""
        self.rounds = rounds
        sizes = {"n": num_rows, "n + 1": num_rows + 1, "d": num_parameters, "pool_size": pool_size}
        boxes: dict[str, spaces.Space[Any]] = {}
        for name in names:
            shape = tuple(size if isinstance(size, int) else sizes[size] for size in PARTS[name].shape)
            boxes[name] = spaces.Box(PARTS[name].low, PARTS[name].high, shape)
        self._only = spec if isinstance(spec, str) and spec != "all" else None
        self.space: spaces.Space[Any] = boxes[self._only] if self._only else spaces.Dict(boxes)

    @without_autocast
    def __call__(self, view: ServerView) -> np.ndarray | dict[str, np.ndarray]:
        """Observations of all environments, each part a fresh float32 array [E, ...]."""
        seen = Seen(view)
        if self._only:
            return _to_numpy(PARTS[self._only].build(seen, self))
        return {name: _to_numpy(PARTS[name].build(seen, self)) for name in self.space}  # type: ignore[attr-defined]


class Seen:
    """A view, and what several parts need of it, computed when first asked for."""

    def __init__(self, view: ServerView) -> None:
        self.view = view

    @cached_property
    def norms(self) -> Tensor:
        """Of the submissions, [E, n]."""
        return clamped_norms(self.view.gradients)

    @cached_property
    def median_norm(self) -> Tensor:
        """Of the submissions that are neither rejected nor zero, [E, 1]; NaN where there is none."""
        counted = self.norms.masked_fill(self.view.rejected | (self.norms == 0), torch.nan)
        return counted.nanmedian(1, keepdim=True).values

    @cached_property
    def unit(self) -> Tensor:
        """The submissions divided by their norms, [E, n, d]."""
        return unit_rows(self.view.gradients)

    @cached_property
    def similarity(self) -> Tensor:
        """Cosines between the submissions, [E, n, n], up to rounding."""
        return torch.bmm(self.unit, self.unit.mT)

    @cached_property
    def trust(self) -> Tensor:
        """Cosines of the submissions with the QV gradient, [E, n], up to rounding."""
        server = unit_rows(self.view.qv_gradient[:, None])
        return torch.bmm(self.unit, server.mT)[..., 0]

    @cached_property
    def evidence(self) -> Tensor:
        """What the rule `trust` learns of the workers in this round, [E, n]."""
        return pass_on(self.trust, self.similarity)


def make_observations(
    config: EnvConfig, num_rows: int, num_parameters: int, rounds: int
) -> ObservationBuilder:
    """The builder of a configuration's observations, for submissions [E, num_rows, num_parameters]."""
    return ObservationBuilder(
        config.observation, config.pool_size, num_rows, num_parameters, rounds, config.pooling
    )


@dataclass(frozen=True)
class Part:
    """A part of the observation."""

    shape: tuple[str | int, ...]  # of one environment; "n" is the number of rows received
    low: float
    high: float
    build: Callable[[Seen, ObservationBuilder], Tensor]  # makes the part [E, ...] of all environments


def _pooled(seen: Seen, builder: ObservationBuilder) -> Tensor:
    """Pooled rows in units of the median submission's root mean square entry, [E, n + 1, pool_size]."""
    unit = (seen.median_norm / builder.spread**0.5).nan_to_num(nan=1.0).clamp(min=1e-30)[..., None]
    received = [seen.view.gradients, seen.view.qv_gradient[:, None]]
    rows = torch.cat([builder.pool(part) for part in received], 1)
    if not rows.isfinite().all():  # sums have overflowed
        rows = torch.cat([builder.pool(part.double()) for part in received], 1)
    return symmetric_log(rows / unit)


def _relative_norms(seen: Seen, builder: ObservationBuilder) -> Tensor:
    server = clamped_norms(seen.view.qv_gradient[:, None])
    references = torch.stack([seen.median_norm.nan_to_num(nan=1.0), server], 2)  # [E, 1, 2]
    ratios = seen.norms.clamp(min=1e-38).log()[..., None] - references.clamp(min=1e-38).log()
    return ratios.clamp(-LARGEST_RATIO, LARGEST_RATIO)


def _reputation(seen: Seen, builder: ObservationBuilder) -> Tensor:
    # As `byzgym.aggregation.reputation`, and in the same memory, but without computing the cosines again.
    return running_mean(seen.view, "trust", seen.evidence, RATE).clamp(-1, 1)


def _history(seen: Seen, builder: ObservationBuilder) -> Tensor:
    others = max(1, seen.view.num_workers - 1)
    alike = (seen.similarity.sum(2) - seen.similarity.diagonal(dim1=1, dim2=2)) / others
    now = torch.stack([seen.evidence, seen.trust, alike], 2)  # [E, n, 3]
    means = [running_mean(seen.view, f"observation {rate}", now, rate) for rate in RATES]
    return torch.cat(means, 2).clamp(-1, 1)


def _progress(seen: Seen, builder: ObservationBuilder) -> Tensor:
    return (seen.view.round.float() / builder.rounds).clamp(max=1)[:, None]


PARTS = {
    "pooled": Part(("n + 1", "pool_size"), -BOUND, BOUND, _pooled),
    "gradients": Part(
        ("n", "d"), -LARGEST_LOG, LARGEST_LOG, lambda seen, _: symmetric_log(seen.view.gradients)
    ),
    "norms": Part(("n",), 0.0, BOUND, lambda seen, _: seen.norms.log1p()),
    "relative_norms": Part(("n", 2), -LARGEST_RATIO, LARGEST_RATIO, _relative_norms),
    "similarity": Part(("n", "n"), -1.0, 1.0, lambda seen, _: seen.similarity.clamp(-1, 1)),
    "trust": Part(("n",), -1.0, 1.0, lambda seen, _: seen.trust.clamp(-1, 1)),
    "reputation": Part(("n",), -1.0, 1.0, _reputation),
    "history": Part(("n", 3 * len(RATES)), -1.0, 1.0, _history),
    "credits": Part(("n",), 0.0, 1.0, lambda seen, _: seen.view.previous_credits.clamp(0, 1)),
    "loss": Part((1,), 0.0, BOUND, lambda seen, _: seen.view.qv_value[:, None].log1p()),
    "age": Part((1,), 0.0, 1.0, lambda seen, _: (seen.view.round[:, None] + 1).float().rsqrt()),
    "progress": Part((1,), 0.0, 1.0, _progress),
}
"""The parts of an observation, by name."""


def clamped_norms(rows: Tensor) -> Tensor:
    """Euclidean norms [E, n] of finite rows [E, n, d]; at most the largest number of the rows' type."""
    norms = torch.linalg.vector_norm(rows, dim=2)
    inexact = ~((norms > 1e-15) & (norms < math.inf))  # squares have underflowed or overflowed
    if inexact.any():
        exact = torch.linalg.vector_norm(rows[inexact].double(), dim=1)
        norms[inexact] = exact.clamp(max=torch.finfo(rows.dtype).max).to(rows.dtype)
    return norms


def symmetric_log(values: Tensor) -> Tensor:
    """sign(v) log(1 + |v|), in [-BOUND, BOUND].

    >>> symmetric_log(torch.tensor([-1.0, 0.0, 1.0, float("inf")]))
    tensor([ -0.6931,   0.0000,   0.6931, 100.0000])
    """
    compressed = values.abs().log1p_().copysign_(values)
    return compressed.nan_to_num_(nan=0.0).clamp_(-BOUND, BOUND)


def block_means(rows: Tensor, size: int) -> Tensor:
    """The means [..., size] of contiguous blocks of rows [..., d]; the last block takes the remainder.

    >>> block_means(torch.arange(7.0), 3)
    tensor([0.5000, 2.5000, 5.0000])
    """
    block = rows.shape[-1] // size
    head, last = rows[..., : block * (size - 1)], rows[..., block * (size - 1) :]
    return torch.cat([head.unflatten(-1, (size - 1, block)).mean(-1), last.mean(-1, keepdim=True)], -1)


def _to_numpy(values: Tensor) -> np.ndarray:
    """A copy, because callers keep observations."""
    return np.array(values.detach().cpu().numpy(), dtype=np.float32)
