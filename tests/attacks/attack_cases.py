"""Inputs that the tests of this folder share."""

from __future__ import annotations

import torch
from torch import Tensor

from byzgym.attacks import AttackContext


def gradients_like(num_envs: int, num_workers: int, dimension: int, seed: int = 0) -> Tensor:
    return torch.randn(num_envs, num_workers, dimension, generator=torch.Generator().manual_seed(seed))


def mask_of(num_workers: int, *members: list[int]) -> Tensor:
    """One row of [E, n] for each list of Byzantine workers."""
    mask = torch.zeros(len(members), num_workers, dtype=torch.bool)
    for row, workers in zip(mask, members, strict=True):
        row[workers] = True
    return mask


def context_for(gradients: Tensor, seed: int = 7, rounds: list[int] | None = None) -> AttackContext:
    context = AttackContext.standalone(gradients, seed=seed, num_classes=10)
    if rounds is not None:
        context.round = torch.tensor(rounds)
    return context


def alone(context: AttackContext, env: int, states: list[Tensor]) -> AttackContext:
    """The context of one environment of a batch, its generator in the given state."""
    generator = torch.Generator()
    generator.set_state(states[env])
    return AttackContext(
        round=context.round[env : env + 1],
        generators=[generator],
        learning_rate=context.learning_rate[env : env + 1],
        previous_update=context.previous_update[env : env + 1],
        num_classes=context.num_classes,
    )


def states_of(context: AttackContext) -> list[Tensor]:
    return [generator.get_state() for generator in context.generators]
