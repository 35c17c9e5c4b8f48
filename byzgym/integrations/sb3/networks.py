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
        return self.actor(*_split(features, self.rows, self.row_dim)).flatten(1)

    def forward_critic(self, features: Tensor) -> Tensor:
        """Mean and maximum over the workers: [B, 2 * hidden]."""
        return _pool(self.critic(*_split(features, self.rows, self.row_dim)))


class SetEncoder(nn.Module):
    """One encoding per worker, one after the other, [B, n * hidden]; the actor's part of a `SetNetwork`."""

    def __init__(
        self, rows: int, row_dim: int, global_dim: int, hidden: Sequence[int], activation: type[nn.Module]
    ) -> None:
        super().__init__()
        self.rows, self.row_dim = rows, row_dim
        self.branch = _Branch(row_dim, global_dim, hidden, activation)

    def forward(self, features: Tensor) -> Tensor:
        """Encodings [B, n * hidden] of features [B, n * row_dim + global_dim]."""
        return self.branch(*_split(features, self.rows, self.row_dim)).flatten(1)


class SetValue(nn.Module):
    """The value of an action: of credits that are softmax(beta * action), in a round with these features.

    The update is the sum of the submissions, weighted by their credits. So the encodings of the workers are
    also summed with these weights.

    Args:
        rows: n.
        row_dim: Features of a worker.
        global_dim: Features of the round.
        num_actions: n, or n + 1 with a null slot.
        hidden: Sizes of the hidden layers.
        activation: Between them.
        beta: Inverse temperature of the softmax.
    """

    def __init__(
        self,
        rows: int,
        row_dim: int,
        global_dim: int,
        num_actions: int,
        hidden: Sequence[int],
        activation: type[nn.Module],
        beta: float,
    ) -> None:
        super().__init__()
        self.rows, self.row_dim, self.num_actions, self.beta = rows, row_dim, num_actions, beta
        slots = num_actions - rows
        self.branch = _Branch(row_dim + 2, global_dim + slots, hidden, activation)
        size = hidden[-1]
        self.value = nn.Sequential(nn.Linear(3 * size + slots, size), activation(), nn.Linear(size, 1))

    def forward(self, given: Tensor) -> Tensor:
        """Values [B, 1] of features and actions [B, n * row_dim + global_dim + num_actions]."""
        features, actions = given[:, : -self.num_actions], given[:, -self.num_actions :]
        credits = (self.beta * actions).softmax(1)
        slot = credits[:, self.rows :]  # of the null slot, if there is one
        per_row, whole = _split(features, self.rows, self.row_dim)
        acted = torch.stack([actions, credits], 2)[:, : self.rows]
        encoded = self.branch(torch.cat([per_row, acted], 2), torch.cat([whole, slot], 1))
        weighted = (credits[:, : self.rows, None] * encoded).sum(1)
        return self.value(torch.cat([_pool(encoded), weighted, slot], 1))


class SetLSTM(nn.Module):
    """One LSTM for every worker, which sees the features of that worker alone.

    It stands for an `nn.LSTM` in the policies of sb3-contrib: the states [1, B, hidden_size] hold those of
    one worker after the other. The output [T, B, n * (row_dim + hidden) + global_dim] is the input, with each
    worker's memory behind its features.

    Args:
        rows: n.
        row_dim: Features of a worker.
        global_dim: Features of the round.
        hidden: Size of a worker's memory.
    """

    num_layers = 1

    def __init__(self, rows: int, row_dim: int, global_dim: int, hidden: int) -> None:
        super().__init__()
        self.rows, self.row_dim = rows, row_dim
        self.input_size, self.hidden_size = rows * row_dim + global_dim, rows * hidden
        self.lstm = nn.LSTM(row_dim, hidden)

    def forward(
        self, sequence: Tensor, states: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs [T, B, ...], and the states after them, for features [T, B, input_size] and states."""
        length, count, _ = sequence.shape
        per_row, whole = _split(sequence.flatten(0, 1), self.rows, self.row_dim)  # [T * B, n, row_dim]
        alone = per_row.reshape(length, count * self.rows, self.row_dim)
        hidden, cell = (state.reshape(1, count * self.rows, -1) for state in states)
        memory, (hidden, cell) = self.lstm(alone, (hidden, cell))
        both = torch.cat([alone, memory], 2).reshape(length * count, -1)
        output = torch.cat([both, whole], 1).reshape(length, count, -1)
        return output, (hidden.reshape(1, count, -1), cell.reshape(1, count, -1))


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


def _split(features: Tensor, rows: int, row_dim: int) -> tuple[Tensor, Tensor]:
    """The output of `EquivariantExtractor` as features of workers [B, n, row_dim] and of the round [B, G]."""
    size = rows * row_dim
    return features[:, :size].reshape(-1, rows, row_dim), features[:, size:]


def _pool(encodings: Tensor) -> Tensor:
    """Mean and maximum [B, 2 H] over the workers of encodings [B, n, H]."""
    return torch.cat([encodings.mean(1), encodings.amax(1)], 1)
