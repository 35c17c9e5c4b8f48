"""The reward: how much the loss has dropped in a round."""

from __future__ import annotations

from torch import Tensor

WORST_REWARD = -10.0
"""Reward of a round in which the run diverges, and the lower bound of all others."""
LARGEST_LOG_DROP = 10.0
"""Upper bound of the reward in its form "log"."""
SMALLEST_LOSS = 1e-12
"""Smaller losses count as this."""
EXPLOSION = 1000.0
"""A QV loss of more than this many times that at the start of the episode counts as divergence."""


def exploded(loss: Tensor, initial: Tensor) -> Tensor:
    """Where a QV loss [E] counts as divergence, beside that at the start of the episode [E]."""
    return loss > EXPLOSION * initial


def relative_drop(before: Tensor, after: Tensor) -> Tensor:
    """(L(theta_t) - L(theta_{t+1})) / L(theta_t), in [WORST_REWARD, 1].

    The GAA paper calls its reward the relative change of the loss on the QV set (slides).

    Args:
        before: Loss before the update [E], not negative.
        after: Loss after it [E].
    """
    return ((before - after) / before.clamp(min=SMALLEST_LOSS)).clamp(WORST_REWARD, 1.0)


def log_drop(before: Tensor, after: Tensor) -> Tensor:
    """log L(theta_t) - log L(theta_{t+1}), in [WORST_REWARD, LARGEST_LOG_DROP].

    The sum over the rounds of an episode is the logarithm of the first loss less that of the last one, so a
    loss that rises and falls again earns nothing.

    Args:
        before: Loss before the update [E], not negative.
        after: Loss after it [E].
    """
    drop = before.clamp(min=SMALLEST_LOSS).log() - after.clamp(min=SMALLEST_LOSS).log()
    return drop.clamp(WORST_REWARD, LARGEST_LOG_DROP)


FORMS = {"relative": relative_drop, "log": log_drop}
"""What the argument ``reward_form`` names."""
