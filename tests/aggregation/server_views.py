"""Views of a server whose loss is known, for tests of the rules that need more than submissions."""

from __future__ import annotations

import torch

from byzgym.aggregation import ServerView

RATE = 0.1


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def quadratic(target):
    """The loss ``|theta - target|^2 / 2`` of each run, with its minimum at target [E, d]."""
    return lambda theta: ((theta - target) ** 2).sum(1) / 2


def view_of(gradients, target=None, memory=None, **fields):
    """A view with theta = 0 and a quadratic loss, whose QV gradient is then minus the target [E, d]."""
    theta = torch.zeros_like(gradients[:, 0])
    loss = None if target is None else quadratic(target)
    return ServerView(gradients, theta, RATE, loss, memory=memory, **fields)


def slow_loss(update, target):
    """The loss of one run after a step along an update, in NumPy."""
    return min(((-RATE * update - target) ** 2).sum() / 2, 1e30)
