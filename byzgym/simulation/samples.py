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
        # By environment: what attackers draw from, and the QV and reward samples of which that is true.
        self._pools: dict[int, tuple[Tensor, list[Tensor]]] = {}

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
        task, qv = self._setup.task.without_test(), self.quasi_validation
        assert task.held_out is not None  # a task without one splits it off its training set
        x, y = (torch.zeros_like(part[list(envs)]) for part in (qv.x, qv.y))
        for env in knowing:
            pool, place = self._pool(env), envs.index(env)
            others = task.with_held_out(*(part.index_select(0, pool) for part in task.held_out))
            x[place], y[place] = draw_samples(self._setup, others, self._generators[env])
        return x, y

    def _pool(self, env: int) -> Tensor:
        """The numbers of the held-out samples that attackers draw from.

        It takes long to compare all inputs, so a pool is kept until QV or reward samples are others.
        """
        made_for = [self.quasi_validation.x[env]]
        if self.reward_set is not None:
            made_for.append(self.reward_set.samples[env])
        pool, known = self._pools.get(env, (None, []))
        if pool is None or not all(map(torch.equal, known, made_for)):
            pool = self._new_pool(env)
            self._pools[env] = pool, [part.clone() for part in made_for]
        return pool

    def _new_pool(self, env: int) -> Tensor:
        """Held-out samples that are not for the reward, and whose inputs are not in the QV set.

        They are repeated until there are enough for a QV set.
        """
        assert self._setup.task.held_out is not None
        x, y = self._setup.task.held_out
        pool = torch.arange(len(y), device=y.device) if self.reward_set is None else self.reward_set.left(env)
        known = torch.zeros(len(y), dtype=torch.bool, device=y.device)
        for one in self.quasi_validation.x[env].to(x):
            known |= (x == one).flatten(1).all(1)
        pool = pool[~known[pool]]
        size = self._setup.qv_size
        if not len(pool):
            raise ValueError(
                f"the held-out set has no samples beside the {size} of the QV set, of which an attack knows "
                "the source, and those of the reward, if any; choose a smaller qv_size or reward_size"
            )
        return pool.repeat(-(-size // len(pool)))

    def _draw_qv(self, envs: Sequence[int]) -> None:
        """Give some environments new QV samples, none of them for their reward."""
        if envs:
            drawn = [draw_samples(self._setup, self._seen_by_source(e), self._generators[e]) for e in envs]
            self.quasi_validation.assign(envs, drawn)

    def _seen_by_source(self, env: int) -> Task:
        """The task without its test set, and without the samples of an environment's reward."""
        task = self._setup.task if self.reward_set is None else self.reward_set.rest(env)
        return task.without_test()
