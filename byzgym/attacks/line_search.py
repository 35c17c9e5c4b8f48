"""How far to go along a direction, so that the rule in use goes astray as far as possible.

It is the line search with which ByzantineMomentum (https://github.com/LPD-EPFL/ByzantineMomentum) tunes an
attack in each round. That of ByzFL (https://github.com/LPD-EPFL/byzfl) begins with a step of 10, and goes
forwards only. Attacks that use it know the
server's rule and all honest gradients. A rule that keeps a memory, or that needs the server's data, cannot be
tried out by them: they are shown the mean in its place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from byzgym.attacks.base import AttackContext
from byzgym.numerics.distances import row_norms
from byzgym.numerics.moments import LONG_ROW, at_least_single

EVALUATIONS = 16
"""How often the rule is tried out in a round, in ByzantineMomentum; 20 times in ByzFL."""
STEP, GROWTH, RATIO = 1.0, 2.0, 0.8


def worst_along(
    direction: Tensor,
    mean: Tensor,
    gradients: Tensor,
    byzantine: Tensor,
    context: AttackContext,
    evaluations: int = EVALUATIONS,
) -> Tensor:
    """The submission ``mean + factor * direction`` with the largest ``||rule(submissions) - mean||`` found.

    All Byzantine workers submit it. The rows of Byzantine workers in ``gradients`` are not read.

    Args:
        direction: Shape [E, d].
        mean: The honest mean, shape [E, d].
        gradients: Shape [E, n, d].
        byzantine: Bool, shape [E, n].
        context: Holds the rule.
        evaluations: How often the rule is tried out.

    Returns:
        Shape [E, d].
    """
    rule = context.rule or _mean
    submissions = at_least_single(gradients).clone()
    env, worker = byzantine.nonzero(as_tuple=True)
    members = byzantine.nonzero().tolist() if gradients.shape[2] >= LONG_ROW else []

    def deviation(factor: Tensor) -> Tensor:
        row = torch.addcmul(mean, factor.to(mean.dtype)[:, None], direction)
        if not members:
            submissions[env, worker] = row[env]
        for e, w in members:  # an index would write long rows at a fraction of the speed
            submissions[e, w] = row[e]
        return row_norms(rule(submissions).detach() - mean)

    factor = line_maximum(
        deviation, torch.zeros(len(mean), dtype=torch.float64, device=mean.device), evaluations
    )
    return torch.addcmul(mean, factor.to(mean.dtype)[:, None], direction)


def line_maximum(evaluate: Callable[[Tensor], Tensor], start: Tensor, evaluations: int) -> Tensor:
    """Where [E] functions of one number of at least 0 are largest, as far as so many evaluations find out.

    Steps from the start [E] double as long as they lead upwards. Then each goes back towards the best number
    so far, from whichever side, and is 0.8 times as long as the one before. What is not finite is no maximum.

    Example:
        >>> line_maximum(lambda x: -(x - 5).square(), torch.zeros(1), evaluations=16).round(decimals=1)
        tensor([5.])
    """
    best, step = start, torch.full_like(start, STEP)
    highest = _finite(evaluate(best))
    tried, expanding = best, torch.ones_like(best, dtype=torch.bool)
    for _ in range(evaluations - 1):
        back = torch.where(tried < best, tried + step, (tried - _shortened(step, tried)).clamp_min(0))
        tried = torch.where(expanding, best + step, back)
        height = _finite(evaluate(tried))
        better = height > highest
        best, highest = torch.where(better, tried, best), torch.where(better, height, highest)
        expanding = expanding & better
        step = torch.where(expanding, GROWTH * step, RATIO * step)
    return best


def _shortened(step: Tensor, most: Tensor) -> Tensor:
    """The steps [E], halved until they are at most ``most`` [E], where this is greater than 0."""
    while (long := (step > most) & (most > 0)).any():
        step = torch.where(long, step / 2, step)
    return step


def _finite(values: Tensor) -> Tensor:
    return values.nan_to_num(nan=-torch.inf, posinf=-torch.inf)


def _mean(gradients: Tensor) -> Tensor:
    return gradients.mean(-2)
