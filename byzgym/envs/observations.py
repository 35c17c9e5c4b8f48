"""Observations: built from the `ServerView` and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from byzgym.aggregation import ServerView
from byzgym.ambient import without_autocast
from byzgym.validation import check_choice, check_int

BOUND = 100.0
"""Bound of what is compressed by the signed logarithm, where quotients may leave the range of float32."""

LARGEST_LOG = 89.0
"""Bound of the logarithms of 1 + a number in float32."""

SMALL = 1e-15
"""Norms above this are right in float32: what has vanished of the squares does not count beside them."""

POOL_SIZE = 32
"""Blocks of the pooled observation, where there are as many coordinates."""


class ObservationBuilder:
    """Turns views into observations.

    Args:
        spec: One part ("pooled", ...), whose observation is a Box; or several or "all", which give a Dict.
        pool_size: Blocks into which "pooled" divides the coordinates; 32, or d where that is less, if None.
        num_rows: Rows that the server receives.
        num_parameters: d.
        rounds: Length of an episode.

    Raises:
        ValueError: If a part is unknown, listed twice, or ``pool_size`` is not from 1 to d.
    """

    def __init__(
        self,
        spec: str | Sequence[str],
        pool_size: int | None,
        num_rows: int,
        num_parameters: int,
        rounds: int,
    ) -> None:
        if isinstance(spec, str):
            check_choice("observation", spec, [*PARTS, "all"])
        elif not isinstance(spec, Sequence) or not spec or len(set(map(str, spec))) < len(spec):
            raise ValueError(
                f"observation must be one of {', '.join(map(repr, [*PARTS, 'all']))} or a list of different "
                f"parts, got {spec!r}"
            )
        if pool_size is None:
            pool_size = min(POOL_SIZE, num_parameters)
        self.pool_size = check_int("pool_size", pool_size, low=1, high=num_parameters)
        self.rounds = rounds
        self._single = isinstance(spec, str) and spec != "all"
        names = list(PARTS) if spec == "all" else [spec] if isinstance(spec, str) else list(spec)
        self.names = [check_choice("observation", name, PARTS) for name in names]
        sizes = {"n": num_rows, "n + 1": num_rows + 1, "d": num_parameters, "pool_size": pool_size, "1": 1}
        made: dict[str, spaces.Space[Any]] = {
            name: spaces.Box(part.low, part.high, tuple(sizes[size] for size in part.shape), np.float32)
            for name, part in PARTS.items()
            if name in self.names
        }
        self.space: spaces.Space[Any] = made[self.names[0]] if self._single else spaces.Dict(made)

    @without_autocast
    def __call__(self, view: ServerView) -> np.ndarray | dict[str, np.ndarray]:
        """Observations of all environments, each part a fresh float32 array of shape [E, ...]."""
        built = {name: _to_numpy(PARTS[name].build(view, self)) for name in self.names}
        return built[self.names[0]] if self._single else {name: built[name] for name in self.space}  # type: ignore[attr-defined]


def row_norms(rows: Tensor) -> Tensor:
    """Euclidean norms [E, n] of rows [E, n, d], right for all finite rows."""
    norms = torch.linalg.vector_norm(rows, dim=2)
    least, largest = norms.aminmax()
    if not (least > SMALL and largest < math.inf):
        odd = ~((norms > SMALL) & (norms < math.inf))  # squares have overflowed, or may have vanished
        exact = torch.linalg.vector_norm(rows[odd].double(), dim=1)
        norms[odd] = exact.clamp(max=torch.finfo(rows.dtype).max).to(rows.dtype)
    return norms


def symmetric_log(values: Tensor) -> Tensor:
    """sign(v) log(1 + |v|), which maps all of float32 into [-BOUND, BOUND]."""
    compressed = values.abs().log1p_().copysign_(values)
    return compressed.nan_to_num_(nan=0.0).clamp_(-BOUND, BOUND)


def pool(rows: Tensor, out: Tensor) -> None:
    """Write the means over contiguous blocks of rows [..., d] into out [..., size].

    The last block takes the remainder.
    """
    size = out.shape[-1]
    block = rows.shape[-1] // size
    head = block * (size - 1)
    torch.mean(rows[..., :head].view(*rows.shape[:-1], size - 1, block), -1, out=out[..., :-1])
    torch.mean(rows[..., head:], -1, out=out[..., -1])


def _pooled(view: ServerView, builder: ObservationBuilder) -> Tensor:
    """Rows in units of the root mean square entry of the median submission, of those that are not zero."""
    norms = row_norms(view.gradients)
    counted = norms.masked_fill(view.rejected | (norms == 0), torch.nan)
    scale = counted.nanmedian(1).values / view.gradients.shape[2] ** 0.5
    scale = scale.nan_to_num(nan=1.0).clamp(min=1e-30)[:, None, None]
    num_envs, num_rows, _ = view.gradients.shape
    rows = view.gradients.new_empty(num_envs, num_rows + 1, builder.pool_size)
    pool(view.gradients, rows[:, :-1])
    pool(view.qv_gradient, rows[:, -1])
    return symmetric_log(rows.div_(scale))


def _similarity(view: ServerView, builder: ObservationBuilder) -> Tensor:
    unit = _unit(view.gradients)
    return torch.bmm(unit, unit.transpose(1, 2)).clamp_(-1, 1)


def _trust(view: ServerView, builder: ObservationBuilder) -> Tensor:
    own = _unit(view.qv_gradient[:, None])
    return torch.bmm(_unit(view.gradients), own.transpose(1, 2))[..., 0].clamp_(-1, 1)


def _unit(rows: Tensor) -> Tensor:
    """Rows of length one; zero rows stay zero."""
    largest = rows.abs().amax(2, keepdim=True).clamp(min=1e-38)
    return torch.nn.functional.normalize(rows / largest, dim=2)


def _progress(view: ServerView, builder: ObservationBuilder) -> Tensor:
    return (view.round.float() / builder.rounds).clamp(max=1)[:, None]


def _to_numpy(values: Tensor) -> np.ndarray:
    """A copy of its own: callers keep observations."""
    return np.array(values.detach().cpu().numpy(), dtype=np.float32)


@dataclass(frozen=True)
class Part:
    """A part of the observation.

    Args:
        shape: Of one environment, from the sizes "n" (rows received), "n + 1", "d", "pool_size" and "1".
        low: Least value.
        high: Largest value.
        build: From a view (and the builder, with the settings) to the part of all environments, [E, ...].
    """

    shape: tuple[str, ...]
    low: float
    high: float
    build: Callable[[ServerView, ObservationBuilder], Tensor]


PARTS = {
    "pooled": Part(("n + 1", "pool_size"), -BOUND, BOUND, _pooled),
    "gradients": Part(
        ("n", "d"), -LARGEST_LOG, LARGEST_LOG, lambda view, builder: symmetric_log(view.gradients)
    ),
    "norms": Part(("n",), 0.0, BOUND, lambda view, builder: row_norms(view.gradients).log1p()),
    "similarity": Part(("n", "n"), -1.0, 1.0, _similarity),
    "trust": Part(("n",), -1.0, 1.0, _trust),
    "credits": Part(("n",), 0.0, 1.0, lambda view, builder: view.previous_credits.clamp(0, 1)),
    "loss": Part(("1",), 0.0, BOUND, lambda view, builder: view.qv_value[:, None].log1p()),
    "progress": Part(("1",), 0.0, 1.0, _progress),
}
"""What an observation can be made of, by name."""
