"""The network of the set aggregator: the same for every worker, with attention between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from byzgym.agents.set.features import COLUMNS, EVIDENCE, HIDDEN, PER_RUN, ROWS, Features

WIDTH, HEADS = 64, 4
LARGEST = 2.0
"""Norm of a submission above which it is clipped, in units of the reference norm."""


@dataclass
class Result:
    """What the network says in one round."""

    weights: Tensor  # [E, n], not negative, with a sum from 0 to 1
    factors: Tensor  # [E, n], from 0 to 1, which shorten long submissions
    honest: Tensor  # [E, n], logits of being honest
    hidden: Tensor  # [E, n, HIDDEN], the memory

    @property
    def credits(self) -> Tensor:
        """The credits, shape [E, n]."""
        return self.weights * self.factors


class SetNetwork(nn.Module):
    """Credits from features: layers for each worker, a memory (GRU), attention, and evidence that is added.

    A gate shortens the step where nobody can be told apart: credits may sum to less than one. Permuting the
    workers permutes the credits, and n may be any number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Linear(len(COLUMNS) + PER_RUN, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()
        )
        self.memory = nn.GRUCell(WIDTH, HIDDEN)
        self.join = nn.Linear(WIDTH + HIDDEN, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.credit = nn.Linear(WIDTH, 1)
        self.honest = nn.Linear(WIDTH, 1)
        self.gate = nn.Linear(WIDTH, 1)
        self.start = nn.Linear(PER_RUN, len(EVIDENCE))
        for layer in (self.credit, self.gate, self.start):
            nn.init.zeros_(layer.weight)
        nn.init.constant_(self.gate.bias, 3)  # most of a step
        nn.init.constant_(self.start.bias, 2)

    def forward(self, features: Features, hidden: Tensor) -> Result:
        """Decide, given the memory [E, n, HIDDEN]."""
        num_envs, n, _ = features.workers.shape
        run = features.run[:, None].expand(-1, n, -1)
        encoded = self.encode(torch.cat([features.workers, run], 2))
        hidden = self.memory(encoded.flatten(0, 1), hidden.flatten(0, 1)).view(num_envs, n, HIDDEN)
        x = self.join(torch.cat([encoded, hidden], 2))
        for block in self.blocks:
            x = block(x, features.pairs, features.rejected)
        x = self.norm(x)
        evidence = (features.evidence * self.start(features.run)[:, None]).sum(2)
        logits = self.credit(x)[..., 0] + evidence
        shares = torch.softmax(logits.masked_fill(features.rejected, -1e9), 1)
        taken = (~features.rejected).to(x.dtype)
        pooled = (x * taken[..., None]).sum(1) / taken.sum(1, keepdim=True).clamp(min=1)
        weights = torch.sigmoid(self.gate(pooled)) * shares * taken
        return Result(weights, _clip(shares, features), self.honest(x)[..., 0], hidden)


class Block(nn.Module):
    """Attention over the workers and a small network, each on top of what was there (pre-norm).

    The cosines between workers raise or lower the scores; and values are also added up with the cosines
    themselves as weights, which may be negative.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.bias = nn.Parameter(torch.zeros(HEADS, len(ROWS)))
        self.signed = nn.Linear(WIDTH, len(ROWS) * WIDTH // HEADS)
        self.out = nn.Linear(WIDTH + len(ROWS) * WIDTH // HEADS, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor, pairs: Tensor, rejected: Tensor) -> Tensor:
        """Map x [E, n, WIDTH] with cosines [E, ROWS, n, n]; nobody attends to the rejected [E, n]."""
        y = self.first(x)
        q, k, v = self.project(y).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)  # [E, HEADS, n, .]
        scores = q @ k.mT / math.sqrt(q.shape[-1]) + torch.einsum("hr,ernm->ehnm", self.bias, pairs)
        weights = torch.softmax(scores.masked_fill(rejected[:, None, None], -1e9), 3)
        attended = (weights @ v).transpose(1, 2).flatten(2)
        values = self.signed(y).unflatten(2, (len(ROWS), -1)).transpose(1, 2)  # [E, ROWS, n, .]
        summed = pairs / pairs.abs().sum(3, keepdim=True).clamp(min=1e-6) @ values
        x = x + self.out(torch.cat([attended, summed.transpose(1, 2).flatten(2)], 2))
        return x + self.mlp(self.second(x))


def _clip(shares: Tensor, features: Features) -> Tensor:
    """Factors [E, n] that shorten submissions to LARGEST times a reference norm, as in `Trust`."""
    mean = (shares.detach() * features.log_norms).sum(1)
    server = features.log_server_norm
    reference = torch.minimum(torch.maximum(mean, server), server + math.log(3))
    return (math.log(LARGEST) + reference[:, None] - features.log_norms).clamp(max=0).exp()
