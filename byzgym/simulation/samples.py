"""Samples that are no worker's: the QV set, those for the reward, and what attackers draw for themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from byzgym.simulation.config import Setup
from byzgym.simulation.gradients import GradientEngine
from byzgym.simulation.quasi_validation import QuasiValidation, draw_samples
from byzgym.simulation.reward_set import RewardSet
from byzgym.tasks import Task


class Samples:
    """Draws the samples of E environments, each from the environment's own generator.

    A QV source sees a task without its test set, and without the samples of the environment's reward. It may
    be anybody's code, and fail.
    """

    def __init__(self, setup: Setup, engine: GradientEngine, generators: Sequence[torch.Generator]) -> None:
        self._setup, self._generators = setup, generators
        num_envs, device = len(generators), setup.device
        generator = torch.Generator(device).manual_seed(0)  # what it draws is thrown away
        self.reward_set: RewardSet | None = None
        if setup.reward_size is not None:
            self.reward_set = RewardSet(setup, engine, num_envs, setup.reward_size)
            self.reward_set.draw(0, generator)
        x, y = draw_samples(setup, self._seen_by_source(0), generator)  # for shapes, and to fail early
        self.quasi_validation = QuasiValidation(engine, num_envs, x, y, setup.task.num_classes)
        self.redrawn = torch.zeros(num_envs, dtype=torch.bool, device=device)
        """In which environments QV samples were drawn after the last round, bool, shape [E]."""
        self._loss_before_redraw = torch.zeros(num_envs, device=device)  # [E], meaningful there

    def reset(self, envs: Sequence[int]) -> None:
        """Draw reward and QV samples for new episodes."""
        for env in envs:
            if self.reward_set is not None:
                self.reward_set.draw(env, self._generators[env])
        self._draw_qv(envs)
        self.redrawn[envs] = False

    @torch.no_grad()
    def redraw(self, due: Tensor, theta: Tensor) -> None:
        """Draw new QV samples in the environments ``due`` [E], whose parameters are theta [E, d]."""
        self.redrawn = due
        if due.any():
            self._loss_before_redraw = self.quasi_validation.loss_and_gradient(theta)[0]
            self._draw_qv(due.nonzero()[:, 0].tolist())

    def loss_of_step(self, loss: Tensor) -> Tensor:
        """From the QV loss [E] that on the samples with which the last step was decided."""
        return torch.where(self.redrawn, self._loss_before_redraw, loss)

    def for_attackers(self, envs: Sequence[int], knowing: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """QV samples of their own for attackers that know where such samples come from: other held-out ones.

        Inputs x [k, q, ...] and labels y [k, q] for k environments, zero but in those of them where somebody
        is ``knowing``; None where nobody is.
        """
        if not knowing:
            return None
        qv = self.quasi_validation
        x, y = (torch.zeros_like(part[list(envs)]) for part in (qv.x, qv.y))
        for env in knowing:
            task = self._seen_by_source(env).without_held_out(qv.x[env], self._setup.qv_size)
            place = envs.index(env)
            x[place], y[place] = draw_samples(self._setup, task, self._generators[env])
        return x, y

    def _draw_qv(self, envs: Sequence[int]) -> None:
        """Give some environments new QV samples, none of them for their reward."""
        if envs:
            drawn = [draw_samples(self._setup, self._seen_by_source(e), self._generators[e]) for e in envs]
            self.quasi_validation.assign(envs, drawn)

    def _seen_by_source(self, env: int) -> Task:
        """The task without its test set, and without the samples of an environment's reward."""
        task = self._setup.task if self.reward_set is None else self.reward_set.rest(env)
        return task.without_test()
