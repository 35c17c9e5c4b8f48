"""What the server does to its own state: take in submissions, and step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from byzgym.numerics.finite import finite_rows
from byzgym.simulation.config import Setup


class Server:
    """Parameters and optimiser of E environments: SGD with heavy-ball momentum and a schedule."""

    def __init__(self, setup: Setup, num_envs: int, num_parameters: int) -> None:
        self._setup = setup
        self.theta = torch.zeros(num_envs, num_parameters, device=setup.device)  # [E, d]
        self.velocity = torch.zeros_like(self.theta) if setup.momentum else None  # [E, d]
        self.round = torch.zeros(num_envs, dtype=torch.int64, device=setup.device)  # [E]
        self.previous_update = torch.zeros_like(self.theta)  # [E, d]
        self.diverged = torch.zeros(num_envs, dtype=torch.bool, device=setup.device)  # [E]
        """Where an update has been refused because parameters would not have been finite."""

    @property
    def learning_rate(self) -> Tensor:
        """The step size of this round, shape [E]."""
        return self._setup.learning_rate(self.round)

    def reset(self, env: int, theta: Tensor) -> None:
        """Begin an episode at the parameters theta [d]."""
        self.theta[env] = theta
        self.round[env] = 0
        self.previous_update[env] = 0
        self.diverged[env] = False
        if self.velocity is not None:
            self.velocity[env] = 0

    def step(self, update: Tensor, active: Tensor | None) -> None:
        """theta <- theta - lr * (momentum * velocity + update), where ``active`` [E] (all where None).

        An environment whose parameters would not stay finite keeps them and is marked as diverged.
        """
        direction = update if self.velocity is None else self._setup.momentum * self.velocity + update
        theta = self.theta - self.learning_rate[:, None] * direction
        # The sum is the cheapest test; it can overflow where no entry does, which a closer look then clears.
        finite = None
        if active is not None or not math.isfinite(theta.sum()):
            finite = finite_rows(theta) & finite_rows(direction)  # [E]
        if finite is None or (active is None and finite.all()):
            self.theta, self.previous_update = theta, update
            if self.velocity is not None:
                self.velocity = direction
            self.round = self.round + 1
            return
        active = torch.ones_like(finite) if active is None else active
        self.diverged = self.diverged | (active & ~finite)
        moved = (active & finite)[:, None]
        self.theta = torch.where(moved, theta, self.theta)
        self.previous_update = torch.where(moved, update, self.previous_update)
        if self.velocity is not None:
            self.velocity = torch.where(moved, direction, self.velocity)
        self.round = self.round + active.long()


def receive(submissions: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """What reaches the server: submissions or means over secure groups, without those that are not finite.

    This is the one place where submissions of a simulation are rejected.

    Args:
        submissions: Shape [E, n, d]. Rejected rows are set to zero in place where the group size is 1.
        group_size: g. With secure aggregation the server sees only sums over g consecutive workers, here
            divided by g so that credits mean the same as without.

    Returns:
        The rows [E, n / g, d], rejected ones zero, and which were rejected, bool [E, n / g].
    """
    rows = submissions if group_size == 1 else submissions.unflatten(1, (-1, group_size)).mean(2)
    rejected = ~finite_rows(rows)
    if rejected.all():  # as in a run that has diverged: its rounds must not take longer than others
        rows.zero_()
    elif rejected.any():
        # An assignment by the mask is slow where many rows are rejected.
        rows.view(-1, rows.shape[-1])[rejected.flatten().nonzero()[:, 0]] = 0
    return rows, rejected
