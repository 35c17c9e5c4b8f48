"""Features of the workers' submissions: permuting the workers permutes the features."""

from __future__ import annotations

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor
from torch.nn import functional

from byzgym.envs.observations import PARTS

LARGEST_EXPONENT = 30.0
"""Compressed entries are clipped here; exp(30) is 1e13 times the median submission."""
_LOG_ZERO = -60.0  # stands for the logarithm of the norm of a row of zeros
_COLUMNS = ("norms", "trust", "credits", "relative_norms")
_MEANS = ("reputation", "history")
_GLOBAL = ("loss", "age", "progress")


class EquivariantExtractor(BaseFeaturesExtractor):
    """Features of each worker, and features of the whole round.

    A worker's gradient is described by its cosines with the server's own gradient, with the mean of the other
    workers' gradients and with these themselves (mean, largest, smallest), and by its norm relative to the
    server's and to the smallest. The cosine with the server's gradient is also passed on between gradients
    that resemble each other. Running means are given as they are, and in units of their root mean square over
    the workers.

    The output [B, rows * row_dim + global_dim] has the features of one worker after the other and then those
    of the round, so an ordinary MLP can use it, too.

    >>> norms = spaces.Box(0, 100, (3,))  # of three workers
    >>> extractor = EquivariantExtractor(spaces.Dict({"norms": norms}))
    >>> extractor({"norms": torch.tensor([[2.0, 0.5, 5.0]])})  # each less the smallest, and as it is
    tensor([[1.5000, 2.0000, 0.0000, 0.5000, 4.5000, 5.0000]])

    Args:
        observation_space: Of the environment: "pooled", or a Dict of parts.

    Attributes:
        rows: Number of workers (or groups) that the server sees.
        row_dim: Features of a worker.
        global_dim: Features of the round.

    Raises:
        ValueError: If the observation has no part with a row per worker, or a part that is not the
            environment's.
    """

    def __init__(self, observation_space: spaces.Space[object]) -> None:
        boxes = _parts(observation_space)
        counts = {box.shape[0] - (name == "pooled") for name, box in boxes.items() if name not in _GLOBAL}
        if len(counts) != 1:
            raise ValueError(
                "observation must have per-worker parts, all for the same number of workers, got "
                f"{observation_space}"
            )
        per_row, whole = _features({name: torch.zeros(1, *box.shape) for name, box in boxes.items()})
        rows, row_dim, global_dim = counts.pop(), per_row.shape[2], whole.shape[1]
        super().__init__(observation_space, rows * row_dim + global_dim)
        self.rows, self.row_dim, self.global_dim = rows, row_dim, global_dim

    def forward(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        """Features [B, rows * row_dim + global_dim]."""
        parts = observations if isinstance(observations, dict) else {"pooled": observations}
        per_row, whole = _features(parts)
        return torch.cat([per_row.flatten(1), whole], 1)


def _parts(space: spaces.Space[object]) -> dict[str, spaces.Box]:
    if isinstance(space, spaces.Box) and len(space.shape) == 2:
        tables = ("gradients", "similarity", "relative_norms", "history")
        others = [(PARTS[name].low, PARTS[name].high) for name in tables]
        if (space.low.min(), space.high.max()) not in others:
            return {"pooled": space}
    if isinstance(space, spaces.Dict):
        boxes = {name: box for name, box in space.items() if isinstance(box, spaces.Box) and name in PARTS}
        if len(boxes) == len(space.spaces):
            return boxes
    raise ValueError(
        f"observation must be the pooled Box (n + 1, pool_size) or a Dict of {', '.join(PARTS)} "
        f"(a single part needs a list, as in observation=['norms']), got {space}"
    )


def _features(parts: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Features per row [B, n, F] and of the round [B, G]."""
    columns: list[Tensor] = []
    if "pooled" in parts:
        pooled = parts["pooled"]
        columns.append(_described(pooled[:, :-1], pooled[:, -1:]))
    if "gradients" in parts:
        columns.append(_described(parts["gradients"], None))
    if "similarity" in parts:
        columns.append(_summary(parts["similarity"]))
        if "trust" in parts:
            columns.append(_endorsed(parts["similarity"], parts["trust"][..., None]))
    if "norms" in parts:
        columns.append((parts["norms"] - _shortest(parts["norms"], 0.0))[..., None])
    columns += [_columns(parts[name]) for name in _COLUMNS if name in parts]
    for name in _MEANS:
        if name in parts:
            means = _columns(parts[name])
            columns += [means, _beside_others(means)]
    whole = [parts[name] for name in _GLOBAL if name in parts]
    per_row = torch.cat(columns, 2)
    return per_row, torch.cat(whole, 1) if whole else per_row.new_zeros(len(per_row), 0)


def _described(rows: Tensor, server: Tensor | None) -> Tensor:
    """Cosines and norms [B, n, F] of compressed rows [B, n, P], beside the server's [B, 1, P] if given."""
    unit, log_norm = _direction(rows)
    received = (log_norm > _LOG_ZERO)[..., None]
    others = functional.normalize(unit.sum(1, keepdim=True) - unit, dim=2)
    similarity = unit @ unit.transpose(1, 2)
    relative = log_norm - _shortest(log_norm, _LOG_ZERO)
    columns = [_summary(similarity), (unit * others).sum(2, keepdim=True), relative[..., None]]
    if server is not None:
        own, own_norm = _direction(server)
        trust = unit @ own.transpose(1, 2)
        columns += [trust, _endorsed(similarity, trust), (log_norm - own_norm)[..., None]]
    described = torch.cat(columns, 2).clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)
    return torch.cat([described.masked_fill(~received, 0), received.to(rows.dtype)], 2)


def _shortest(sizes: Tensor, zero: float) -> Tensor:
    """The smallest of the sizes [B, n], as [B, 1]; rejected rows, of size ``zero``, do not count."""
    least = sizes.masked_fill(sizes <= zero, torch.inf).amin(1, keepdim=True)
    return torch.where(least.isfinite(), least, zero)


def _direction(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Undo the compression; returns unit rows [B, m, P] and log norms [B, m]. Zero rows stay zero."""
    values = rows.sign() * torch.expm1(rows.abs().clamp(max=LARGEST_EXPONENT))
    largest = values.abs().amax(2, keepdim=True).clamp(min=1e-30)
    scaled = values / largest
    norm = torch.linalg.vector_norm(scaled, dim=2)
    log_norm = torch.where(norm > 0, (norm.clamp(min=1e-30) * largest[..., 0]).log(), _LOG_ZERO)
    return functional.normalize(scaled, dim=2), log_norm.clamp(min=_LOG_ZERO)


def _endorsed(similarity: Tensor, trust: Tensor) -> Tensor:
    """Trust [B, n, 2] passed on once and twice from each row to the rows that resemble it.

    The server's own gradient comes from few samples, so a cosine with it is noisy. Honest rows resemble each
    other, and the average over them is less noisy.

    Args:
        similarity: Cosines between the rows, [B, n, n].
        trust: Cosines with the server's own gradient, [B, n, 1].
    """
    others = similarity - torch.diag_embed(torch.diagonal(similarity, dim1=1, dim2=2))
    once = others @ trust
    return torch.cat([once, others @ once], 2)


def _columns(part: Tensor) -> Tensor:
    """A number [B, n], or F numbers [B, n, F], for each row as columns [B, n, F]."""
    return part[..., None] if part.dim() == 2 else part


def _beside_others(means: Tensor) -> Tensor:
    """Columns [B, n, F] in units of their root mean square over the rows."""
    return means / means.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)


def _summary(similarity: Tensor) -> Tensor:
    """Mean, largest and smallest cosine [B, n, 3] of each row with the other rows."""
    rows = similarity.shape[1]
    if rows == 1:
        return similarity.new_zeros(len(similarity), 1, 3)
    same = torch.eye(rows, dtype=torch.bool, device=similarity.device)
    mean = similarity.masked_fill(same, 0).sum(2) / (rows - 1)
    largest = similarity.masked_fill(same, -2).amax(2)
    smallest = similarity.masked_fill(same, 2).amin(2)
    return torch.stack([mean, largest, smallest], 2)
