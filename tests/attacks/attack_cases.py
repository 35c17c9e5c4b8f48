"""Inputs that the tests of this folder share."""

from __future__ import annotations

import torch
from torch import Tensor

from byzgym import attacks
from byzgym.attacks import AttackContext


def gradients_like(num_envs: int, num_workers: int, dimension: int, seed: int = 0) -> Tensor:
    return torch.randn(num_envs, num_workers, dimension, generator=torch.Generator().manual_seed(seed))


def mask_of(num_workers: int, *members: list[int]) -> Tensor:
    """One row of [E, n] for each list of Byzantine workers."""
    mask = torch.zeros(len(members), num_workers, dtype=torch.bool)
    for row, workers in zip(mask, members, strict=True):
        row[workers] = True
    return mask


def context_for(gradients: Tensor, seed: int = 7) -> AttackContext:
    """Environment e of it equals environment 0 of a context with the seed ``seed + e``."""
    return AttackContext.standalone(gradients, seed=seed, num_classes=10)


def submit(spec, gradients: Tensor, mask: Tensor, **parameters) -> Tensor:
    attack = attacks.make(spec, **parameters) if parameters else attacks.make_from(spec)
    return attack(gradients, mask, context_for(gradients))


def states_of(context: AttackContext) -> list[Tensor]:
    return [generator.get_state() for generator in context.generators]
