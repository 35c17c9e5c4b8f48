"""Held-out samples for the reward alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from byzgym.ambient import without_autocast
from byzgym.numerics.finite import finite_loss
from byzgym.simulation.config import Setup
from byzgym.simulation.gradients import GradientEngine
from byzgym.tasks import Task


class RewardSet:
    """The reward samples of E environments, and the model's loss on them.

    Agents and rules never see them. They are drawn before the QV set, and the QV source is then given a task
    whose held-out set lacks them. So no source that takes held-out samples can take these, changed or not,
    in any round of the episode.
    """

    def __init__(self, setup: Setup, engine: GradientEngine, num_envs: int, size: int) -> None:
        assert setup.task.held_out is not None  # a task without one splits it off its training set
        self._task, self._engine = setup.task, engine
        self._held_out = setup.task.held_out  # no attributes of their own, which snapshots would copy
        self.samples = torch.zeros(num_envs, size, dtype=torch.int64, device=setup.device)
        """Their numbers in the held-out set, shape [E, N]."""

    def draw(self, env: int, generator: torch.Generator) -> None:
        """Draw the samples of an environment for a new episode."""
        order = torch.randperm(len(self._held_out[1]), generator=generator, device=generator.device)
        self.samples[env] = order[: self.samples.shape[1]]

    def rest(self, env: int) -> Task:
        """The task as a QV source may see it: its held-out set is without the samples of an environment."""
        x, y = self._held_out
        left = self.left(env)
        return self._task.with_held_out(x[left], y[left])

    def left(self, env: int) -> Tensor:
        """The numbers of the held-out samples that are not an environment's, in ascending order."""
        left = torch.ones(len(self._held_out[1]), dtype=torch.bool, device=self.samples.device)
        left[self.samples[env]] = False
        return left.nonzero()[:, 0]

    @torch.no_grad()
    @without_autocast
    def loss(self, theta: Tensor) -> Tensor:
        """Mean loss [E] at theta [E, d], finite."""
        x, y = self._held_out
        count = self.samples.shape[1]
        total = theta.new_zeros(len(theta))
        chunk = self._engine.samples_at_once(len(theta), math.prod(x.shape[1:]))
        for part in self.samples.split(chunk, dim=1):
            total += self._engine.loss(theta, x[part], y[part]) * (part.shape[1] / count)
        return finite_loss(total)
