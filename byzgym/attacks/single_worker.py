"""Attacks for which a worker needs to know its own gradient at most."""

from __future__ import annotations

import torch
from torch import Tensor

from byzgym.attacks.base import Attack, AttackContext
from byzgym.attacks.registry import registry
from byzgym.validation import check_real


@registry.built_in("none")
class NoAttack(Attack):
    """No attack: Byzantine workers submit their honest gradients.

    Example:
        >>> gradients = torch.tensor([[[1.0, -2.0]]])
        >>> NoAttack()(gradients, torch.tensor([[True]]), AttackContext.standalone(gradients))
        tensor([[[ 1., -2.]]])
    """

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return the gradients [E, n, d] themselves."""
        return gradients


@registry.built_in("scaled")
class Scaled(Attack):
    """Model replacement of Bagdasaryan et al. 2020, "How to backdoor federated learning"
    (https://arxiv.org/abs/1807.00459). Byzantine workers submit ``factor`` times their own gradient.

    Near convergence this replaces the model; the paper's factor is n divided by the global learning rate.

    Args:
        factor: Any finite number.

    Example:
        >>> gradients = torch.tensor([[[1.0, -2.0]]])
        >>> Scaled()(gradients, torch.tensor([[True]]), AttackContext.standalone(gradients))
        tensor([[[ 10., -20.]]])
    """

    def __init__(self, factor: float = 10.0) -> None:
        self.factor = check_real("factor", factor)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, n, d]; see `Attack.corrupt`."""
        return gradients * self.factor


@registry.built_in("sign_flip")
class SignFlip(Attack):
    """Sign flipping, the "bit-flip" of Xie et al. 2019, "Zeno" (https://arxiv.org/abs/1805.10032). Byzantine
    workers submit ``-scale`` times their own gradient.

    BANT and blades do the same. ByzFL and the EPFL code reverse the mean of the honest gradients instead,
    which is ``ipm`` with epsilon 1.

    Args:
        scale: Greater than 0.

    Example:
        >>> gradients = torch.tensor([[[1.0, -2.0]]])
        >>> SignFlip()(gradients, torch.tensor([[True]]), AttackContext.standalone(gradients))
        tensor([[[-1.,  2.]]])
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = check_real("scale", scale, above=0)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, n, d]; see `Attack.corrupt`."""
        return gradients * -self.scale


@registry.built_in("zero")
class Zero(Attack):
    """Byzantine workers submit zero: they seem to take part and contribute nothing.

    Example:
        >>> gradients = torch.tensor([[[1.0, -2.0]]])
        >>> Zero()(gradients, torch.tensor([[True]]), AttackContext.standalone(gradients))
        tensor([[[0., 0.]]])
    """

    reads_own = False

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, 1, d]; see `Attack.corrupt`."""
        return torch.zeros_like(gradients[:, :1])
