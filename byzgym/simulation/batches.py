"""Which samples every worker draws in every round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def checked_shares(author: Any, result: Any, num_workers: int, num_samples: int) -> tuple[Tensor, Tensor]:
    """What a partition has returned: samples [n, m], and how many of them each worker has [n]."""
    if isinstance(result, tuple | list) and len(result) == 2:
        shares, lengths = result
        if (
            all(isinstance(part, Tensor) and part.dtype == torch.int64 for part in result)
            and (shares.dim(), lengths.shape) == (2, (num_workers,))
            and len(shares) == num_workers
            and bool(((lengths > 0) & (lengths <= shares.shape[1])).all())
            and bool(((shares >= 0) & (shares < num_samples)).all())
        ):
            return shares, lengths
    raise ValueError(
        f"partition {author!r} must return the numbers of samples, int64 of shape ({num_workers}, m) from 0 "
        f"to {num_samples - 1}, and how many of them a worker has, int64 of shape ({num_workers},), 1 to m, "
        f"got {described(result)}"
    )


def described(result: Any) -> str:
    """What an error says that a user's function has returned: its tensors, or the type of anything else."""
    if isinstance(result, tuple | list):
        return f"{len(result)} values ({', '.join(map(_described, result))})"
    return _described(result)


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    text = f"{value.dtype} of shape {tuple(value.shape)}".removeprefix("torch.")
    if value.numel() == 0 or value.is_complex() or value.layout is not torch.strided:
        return text
    return f"{text} from {value.min().item():.8g} to {value.max().item():.8g}"


class BatchSampler:
    """Draws who takes part in each round, and their batches, with replacement from each worker's share.

    All is drawn for `CHUNK` rounds at a time: one call per environment and chunk instead of one per
    environment and round.
    """

    CHUNK = 16

    def __init__(
        self, num_envs: int, num_workers: int, cohort_size: int, batch_size: int, device: torch.device
    ) -> None:
        shape = num_envs, self.CHUNK, cohort_size  # [E, CHUNK, m]
        self.num_workers = num_workers
        self.shares = torch.zeros(num_envs, num_workers, 1, dtype=torch.int64, device=device)  # [E, n, s]
        self.lengths = torch.ones(num_envs, num_workers, dtype=torch.int64, device=device)  # [E, n]
        self.cohorts = torch.arange(cohort_size, device=device).repeat(*shape[:2], 1)  # numbers of workers
        self.samples = torch.zeros(*shape, batch_size, dtype=torch.int64, device=device)

    def assign(self, env: int, shares: Tensor, lengths: Tensor) -> None:
        """Give the workers of an environment their shares [n, s] of the training data, lengths [n]."""
        missing = shares.shape[1] - self.shares.shape[2]
        if missing > 0:
            self.shares = torch.nn.functional.pad(self.shares, (0, missing))
        self.shares[env, :, : shares.shape[1]] = shares
        self.lengths[env] = lengths

    def draw(
        self, envs: Tensor, round: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """For envs [k] in their rounds [k]: m workers [k, m], ascending, and their samples [k, m, B].

        The generators are those of all environments.
        """
        slot = round % self.CHUNK
        if (slot == 0).any():
            self._refill(envs[slot == 0], generators)
        return self.cohorts[envs, slot], self.samples[envs, slot]

    def _refill(self, envs: Tensor, generators: Sequence[torch.Generator]) -> None:
        uniform = torch.empty(len(envs), *self.samples.shape[1:], dtype=torch.float32, device=envs.device)
        for row, env in zip(uniform, envs.tolist(), strict=True):
            self._draw_cohorts(env, generators[env])
            row.uniform_(generator=generators[env])
        of = envs[:, None, None], self.cohorts[envs]
        lengths = self.lengths[of][..., None]  # [k, CHUNK, m, 1]
        positions = (uniform * lengths).long().clamp_(max=lengths - 1)  # [k, CHUNK, m, B]
        self.samples[envs] = self.shares[of[0][..., None], of[1][..., None], positions]

    def _draw_cohorts(self, env: int, generator: torch.Generator) -> None:
        size = self.cohorts.shape[2]
        if size < self.num_workers:  # everybody takes part otherwise, and nothing is drawn
            keys = torch.rand(self.CHUNK, self.num_workers, generator=generator, device=self.cohorts.device)
            self.cohorts[env] = keys.topk(size).indices.sort().values
