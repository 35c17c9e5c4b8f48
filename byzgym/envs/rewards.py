"""The reward: the relative drop of the quasi-validation loss."""

from __future__ import annotations

from torch import Tensor

WORST_REWARD = -10.0
"""Reward of a round in which the run diverges, and the lower bound of all others."""
EXPLOSION = 1000.0
"""A QV loss of more than this many times that at the start of the episode counts as divergence."""


def exploded(loss: Tensor, initial: Tensor) -> Tensor:
    """Where a QV loss [E] counts as divergence, beside that at the start of the episode [E]."""
    return loss > EXPLOSION * initial


def relative_drop(before: Tensor, after: Tensor) -> Tensor:
    """(L(theta_t) - L(theta_{t+1})) / L(theta_t), in [WORST_REWARD, 1].

    The GAA paper calls its reward the relative change of the loss on the QV set (slides).

    Args:
        before: QV loss before the update [E], not negative.
        after: QV loss after it [E].
    """
    return ((before - after) / before.clamp(min=1e-12)).clamp(WORST_REWARD, 1.0)
