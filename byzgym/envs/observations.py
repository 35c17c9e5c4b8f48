"""Observations, built from the `ServerView` and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional

from byzgym.aggregation import ServerView
from byzgym.ambient import without_autocast
from byzgym.envs.config import EnvConfig
from byzgym.validation import check_int

BOUND = 100.0
"""Bound of compressed values that may leave the range of float32 before they are compressed."""
LARGEST_LOG = 89.0
"""Bound of log(1 + x) for x in float32."""
POOL_SIZE = 32
"""Default number of blocks of the pooled observation."""


class ObservationBuilder:
    """Turns views into observations: a Box for a name from `PARTS`, a Dict for a list of names or "all"."""

    def __init__(
        self,
        spec: str | Sequence[str],
        pool_size: int | None,
        num_rows: int,
        num_parameters: int,
        rounds: int,
    ) -> None:
        known = list(PARTS)
        names = spec if not isinstance(spec, str) else known if spec == "all" else [spec]
        valid = isinstance(names, Sequence) and all(p in known and names.count(p) == 1 for p in names)
        if not valid or not names:
            allowed = ", ".join(map(repr, [*known, "all"])) + " or a list of different parts"
            raise ValueError(f"observation must be one of {allowed}, got {spec!r}")
        pool_size = min(POOL_SIZE, num_parameters) if pool_size is None else pool_size
        self.pool_size = check_int("pool_size", pool_size, low=1, high=num_parameters)
        self.rounds = rounds
        sizes = {"n": num_rows, "n + 1": num_rows + 1, "d": num_parameters, "pool_size": pool_size, "1": 1}
        boxes: dict[str, spaces.Space[Any]] = {}
        for name in names:
            shape = tuple(sizes[size] for size in PARTS[name].shape)
            boxes[name] = spaces.Box(PARTS[name].low, PARTS[name].high, shape)
        self._only = spec if isinstance(spec, str) and spec != "all" else None
        self.space: spaces.Space[Any] = boxes[self._only] if self._only else spaces.Dict(boxes)

    @without_autocast
    def __call__(self, view: ServerView) -> np.ndarray | dict[str, np.ndarray]:
        """Observations of all environments, each part a fresh float32 array [E, ...]."""
        if self._only:
            return _to_numpy(PARTS[self._only].build(view, self))
        return {name: _to_numpy(PARTS[name].build(view, self)) for name in self.space}  # type: ignore[attr-defined]


def make_observations(
    config: EnvConfig, num_rows: int, num_parameters: int, rounds: int
) -> ObservationBuilder:
    """The builder of a configuration's observations, for submissions [E, num_rows, num_parameters]."""
    return ObservationBuilder(config.observation, config.pool_size, num_rows, num_parameters, rounds)


@dataclass(frozen=True)
class Part:
    """A part of the observation."""

    shape: tuple[str, ...]  # of one environment: "n" (rows received), "n + 1", "d", "pool_size" and "1"
    low: float
    high: float
    build: Callable[[ServerView, ObservationBuilder], Tensor]  # makes the part [E, ...] of all environments


def _pooled(view: ServerView, builder: ObservationBuilder) -> Tensor:
    """Rows in units of the median submission's root mean square entry, [E, n + 1, pool_size]."""
    norms = clamped_norms(view.gradients)
    counted = norms.masked_fill(view.rejected | (norms == 0), torch.nan)  # for the median
    unit = counted.nanmedian(1).values / view.gradients.shape[2] ** 0.5
    unit = unit.nan_to_num(nan=1.0).clamp(min=1e-30)[:, None, None]
    size = builder.pool_size
    rows = torch.cat([pool(view.gradients, size), pool(view.qv_gradient[:, None], size)], 1)
    return symmetric_log(rows / unit)


def _similarity(view: ServerView, builder: ObservationBuilder) -> Tensor:
    unit = _unit(view.gradients)
    return torch.bmm(unit, unit.mT).clamp_(-1, 1)


def _trust(view: ServerView, builder: ObservationBuilder) -> Tensor:
    server = _unit(view.qv_gradient[:, None])
    return torch.bmm(_unit(view.gradients), server.mT)[..., 0].clamp_(-1, 1)


def _progress(view: ServerView, builder: ObservationBuilder) -> Tensor:
    return (view.round.float() / builder.rounds).clamp(max=1)[:, None]


PARTS = {
    "pooled": Part(("n + 1", "pool_size"), -BOUND, BOUND, _pooled),
    "gradients": Part(("n", "d"), -LARGEST_LOG, LARGEST_LOG, lambda view, _: symmetric_log(view.gradients)),
    "norms": Part(("n",), 0.0, BOUND, lambda view, _: clamped_norms(view.gradients).log1p()),
    "similarity": Part(("n", "n"), -1.0, 1.0, _similarity),
    "trust": Part(("n",), -1.0, 1.0, _trust),
    "credits": Part(("n",), 0.0, 1.0, lambda view, _: view.previous_credits.clamp(0, 1)),
    "loss": Part(("1",), 0.0, BOUND, lambda view, _: view.qv_value[:, None].log1p()),
    "progress": Part(("1",), 0.0, 1.0, _progress),
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


def pool(rows: Tensor, size: int) -> Tensor:
    """The means [..., size] of contiguous blocks of rows [..., d]; the last block takes the remainder.

    >>> pool(torch.arange(7.0), 3)
    tensor([0.5000, 2.5000, 5.0000])
    """
    block = rows.shape[-1] // size
    head, last = rows[..., : block * (size - 1)], rows[..., block * (size - 1) :]
    return torch.cat([head.unflatten(-1, (size - 1, block)).mean(-1), last.mean(-1, keepdim=True)], -1)


def _unit(rows: Tensor) -> Tensor:
    """Rows [E, n, d] divided by their norms; zero rows stay zero."""
    largest = rows.abs().amax(2, keepdim=True).clamp(min=1e-38)  # so that no square overflows or underflows
    return functional.normalize(rows / largest, dim=2)


def _to_numpy(values: Tensor) -> np.ndarray:
    """A copy, because callers keep observations."""
    return np.array(values.detach().cpu().numpy(), dtype=np.float32)
