"""Networks on sets of workers: one network for every worker, which sees the others pooled."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class SetNetwork(nn.Module):
    """Encodes each worker's features and what all workers have in common, as Deep Sets do.

    Actor and critic have weights of their own. The input [B, n * row_dim + global_dim] is the output of
    `EquivariantExtractor`; ``hidden`` are the sizes of the hidden layers.
    """

    def __init__(
        self, rows: int, row_dim: int, global_dim: int, hidden: Sequence[int], activation: type[nn.Module]
    ) -> None:
        super().__init__()
        self.rows, self.row_dim = rows, row_dim
        self.actor = _Branch(row_dim, global_dim, hidden, activation)
        self.critic = _Branch(row_dim, global_dim, hidden, activation)
        self.latent_dim_pi = rows * hidden[-1]
        self.latent_dim_vf = 2 * hidden[-1]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of actor [B, latent_dim_pi] and critic [B, latent_dim_vf]."""
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        """One encoding per worker, one after the other: [B, n * hidden]."""
        return self.actor(*self._split(features)).flatten(1)

    def forward_critic(self, features: Tensor) -> Tensor:
        """Mean and maximum over the workers: [B, 2 * hidden]."""
        return _pool(self.critic(*self._split(features)))

    def _split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        size = self.rows * self.row_dim
        return features[:, :size].reshape(-1, self.rows, self.row_dim), features[:, size:]


class _Branch(nn.Module):
    """Makes encodings [B, n, hidden] of features of the workers [B, n, F] and of the round [B, G]."""

    def __init__(
        self, row_dim: int, global_dim: int, hidden: Sequence[int], activation: type[nn.Module]
    ) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(row_dim, hidden[0]), activation())
        sizes = [3 * hidden[0] + global_dim, *(hidden[1:] or hidden)]
        layers: list[nn.Module] = []
        for size, following in pairwise(sizes):
            layers += [nn.Linear(size, following), activation()]
        self.decide = nn.Sequential(*layers)

    def forward(self, per_row: Tensor, whole: Tensor) -> Tensor:
        encoded = self.encode(per_row)
        context = torch.cat([_pool(encoded), whole], 1)
        return self.decide(torch.cat([encoded, context[:, None].expand(-1, encoded.shape[1], -1)], 2))


class CreditHead(nn.Module):
    """A number for each of n workers from its encoding, and one for the null slot from all encodings."""

    def __init__(self, rows: int, size: int, null_slot: bool) -> None:
        super().__init__()
        self.rows, self.size = rows, size
        self.per_row = nn.Linear(size, 1)
        self.slot = nn.Linear(2 * size, 1) if null_slot else None

    def forward(self, latent: Tensor) -> Tensor:
        """Numbers [B, n] or [B, n + 1] from encodings [B, n * size]."""
        encodings = latent.reshape(-1, self.rows, self.size)
        numbers = self.per_row(encodings)[..., 0]
        if self.slot is None:
            return numbers
        return torch.cat([numbers, self.slot(_pool(encodings))], 1)


def _pool(encodings: Tensor) -> Tensor:
    """Mean and maximum [B, 2 H] over the workers of encodings [B, n, H]."""
    return torch.cat([encodings.mean(1), encodings.amax(1)], 1)
