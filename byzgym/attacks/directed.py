"""Attacks that push against the direction of the honest gradients, which they know."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from byzgym.attacks.base import Attack, AttackContext
from byzgym.attacks.honest import honest_mean, honest_sum
from byzgym.attacks.registry import registry
from byzgym.validation import check_real


@registry.built_in("omniscient")
class Omniscient(Attack):
    """All Byzantine workers submit ``-factor`` times the sum of the honest gradients (zero without any).

    Xie et al. 2018, "Generalized Byzantine-tolerant SGD", section 5.3, with factor 1e20. A product beyond the
    largest float becomes infinite, and such a submission is rejected by the server.

    Args:
        factor: Greater than 0.
    """

    reads_own: ClassVar[bool] = False

    def __init__(self, factor: float = 1e20) -> None:
        self.factor = check_real("factor", factor, above=0)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """See `Attack.corrupt`."""
        return (honest_sum(gradients, byzantine) * -self.factor)[:, None]


@registry.built_in("ipm")
class InnerProductManipulation(Attack):
    """All Byzantine workers submit ``-epsilon`` times the mean of the honest gradients (zero without any).

    Inner product manipulation, Xie et al. 2020, "Fall of empires": a small epsilon stays close to the honest
    gradients and still turns the inner product of the aggregate and the true gradient negative. Others use
    0.5 (BANT), 1.0 (blades), 2.0 (ByzFL); a factor 1.1 in the EPFL code means epsilon 0.1.

    Args:
        epsilon: At least 0.
    """

    reads_own: ClassVar[bool] = False

    def __init__(self, epsilon: float = 0.5) -> None:
        self.epsilon = check_real("epsilon", epsilon, low=0)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """See `Attack.corrupt`."""
        return (honest_mean(gradients, byzantine) * -self.epsilon)[:, None]
