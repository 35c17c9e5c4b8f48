"""Attacks that change a worker's own gradient and need to know nothing else."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from byzgym.attacks.base import Attack, AttackContext
from byzgym.attacks.registry import registry
from byzgym.validation import check_real


@registry.built_in("none")
class NoAttack(Attack):
    """Byzantine workers submit their honest gradients: the case without failures."""

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """See `Attack.corrupt`."""
        return gradients


@registry.built_in("scaled")
class Scaled(Attack):
    """Multiplies the own gradient by ``factor``.

    It replaces the model if the others are near convergence (Bagdasaryan et al. 2020, "How to backdoor
    federated learning": gamma = n / eta).

    Args:
        factor: Any finite number.
    """

    def __init__(self, factor: float = 10.0) -> None:
        self.factor = check_real("factor", factor)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """See `Attack.corrupt`."""
        return gradients * self.factor


@registry.built_in("sign_flip")
class SignFlip(Attack):
    """Reverses the own gradient: ``-scale`` times it.

    The "bit-flip" of Zeno (Xie et al. 2019), the sign flip of BANT and blades; ByzFL and the EPFL code
    reverse the mean of the honest gradients instead, which is ``ipm`` with epsilon 1.

    Args:
        scale: Greater than 0.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = check_real("scale", scale, above=0)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """See `Attack.corrupt`."""
        return gradients * -self.scale


@registry.built_in("zero")
class Zero(Attack):
    """Submits zero: the worker seems to take part and contributes nothing."""

    reads_own: ClassVar[bool] = False

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """See `Attack.corrupt`."""
        num_envs, _, dimension = gradients.shape
        return gradients.new_zeros(1).expand(num_envs, 1, dimension)
