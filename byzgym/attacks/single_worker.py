"""Attacks for which a worker needs to know its own gradient at most (``one_coordinate`` can use more)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from byzgym.attacks.base import Attack, AttackContext
from byzgym.attacks.line_search import EVALUATIONS, worst_along
from byzgym.attacks.registry import registry
from byzgym.numerics.moments import at_least_single, honest_mean
from byzgym.validation import check_bool, check_choice, check_int, check_real


@registry.built_in("none")
class NoAttack(Attack):
    """No attack: Byzantine workers submit their honest gradients.

    A worker needs to know its own gradient only.

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
    """The scaling of Bagdasaryan et al. 2020, "How to backdoor federated learning"
    (https://arxiv.org/abs/1807.00459), by itself. Byzantine workers submit ``factor`` times their own
    gradient.

    ``model_replacement`` is the whole of it, with a backdoor. A worker needs to know its own gradient only.

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
    which is ``ipm`` with epsilon 1. A worker needs to know its own gradient only.

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

    A worker needs to know nothing.

    Example:
        >>> gradients = torch.tensor([[[1.0, -2.0]]])
        >>> Zero()(gradients, torch.tensor([[True]]), AttackContext.standalone(gradients))
        tensor([[[0., 0.]]])
    """

    reads_own = False

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, 1, d]; see `Attack.corrupt`."""
        return torch.zeros_like(gradients[:, :1])


@registry.built_in("one_coordinate")
class OneCoordinate(Attack):
    """One-coordinate attack of El Mhamdi et al. 2018, "The hidden vulnerability of distributed learning in
    Byzantium" (https://arxiv.org/abs/1802.07927). Byzantine workers add ``scale * sqrt(d)`` to one of the d
    coordinates of their own gradient.

    The noise of honest gradients, too, grows with sqrt(d), so rules that compare distances, such as Krum, may
    choose a row that is far off in one coordinate. The own gradient and the scale 0.1 are from the
    reconstruction of GAA by nicehiro (https://github.com/nicehiro/GAA-Consensus). The paper adds as much as
    the rule lets pass, to an estimate of the true gradient: with ``optimize=True`` they submit the honest
    mean, raised in this coordinate by what a line search finds in each round, as in ByzantineMomentum
    (https://github.com/LPD-EPFL/ByzantineMomentum, "bulyan"). The search takes the time
    of ``evaluations`` aggregations. A worker needs to know its own gradient, and with ``optimize=True`` all
    honest gradients and the rule.

    Args:
        scale: Any finite number. It has no effect with ``optimize=True``.
        coordinate: Which one, at least 0 and less than d.
        optimize: Whether to search for the largest deviation from the honest mean that the rule lets pass.
        evaluations: How often the search tries out the rule in a round, at least 1.

    Example:
        >>> gradients = torch.tensor([[[1.0, 1.0, 1.0, 1.0]]])
        >>> attack = OneCoordinate(coordinate=2)
        >>> attack(gradients, torch.tensor([[True]]), AttackContext.standalone(gradients))
        tensor([[[1.0000, 1.0000, 1.2000, 1.0000]]])
    """

    def __init__(
        self,
        scale: float = 0.1,
        coordinate: int = 0,
        optimize: bool = False,
        evaluations: int = EVALUATIONS,
    ) -> None:
        self.scale = check_real("scale", scale)
        self.coordinate = check_int("coordinate", coordinate, low=0)
        self.optimize = check_bool("optimize", optimize)
        self.evaluations = check_int("evaluations", evaluations, low=1)
        self.knowledge = frozenset({"rule"} if optimize else ())

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, n, d]; see `Attack.corrupt`.

        Raises:
            ValueError: If there is no such coordinate.
        """
        dimension = gradients.shape[2]
        check_int("coordinate", self.coordinate, low=0, high=dimension - 1)
        if self.optimize:
            mean = honest_mean(at_least_single(gradients), byzantine)
            direction = torch.zeros_like(mean)
            direction[:, self.coordinate] = 1
            return worst_along(direction, mean, gradients, byzantine, context, self.evaluations)[:, None]
        submitted = gradients.clone()
        submitted[..., self.coordinate] += self.scale * math.sqrt(dimension)
        return submitted


@registry.built_in("non_finite")
class NonFinite(Attack):
    """Rows without a number, as in ByzFL (https://github.com/LPD-EPFL/byzfl; infinity) and ByzantineMomentum
    (https://github.com/LPD-EPFL/ByzantineMomentum; NaN). Byzantine workers submit NaN or infinity everywhere.

    A server that does not check what it receives is lost at once. A simulation's server rejects these rows,
    so they only count as missing. A worker needs to know nothing.

    Args:
        value: "nan", "inf" or "-inf".

    Example:
        >>> gradients = torch.tensor([[[1.0, -2.0]]])
        >>> NonFinite("-inf")(gradients, torch.tensor([[True]]), AttackContext.standalone(gradients))
        tensor([[[-inf, -inf]]])
    """

    reads_own = False

    def __init__(self, value: str = "nan") -> None:
        self.value: str = check_choice("value", value, ("nan", "inf", "-inf"))

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, 1, d]; see `Attack.corrupt`."""
        return torch.full_like(gradients[:, :1], float(self.value))
