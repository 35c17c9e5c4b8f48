"""Attacks that go as far from the honest mean as keeps them within the spread of the honest gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from byzgym.attacks.base import Attack, AttackContext
from byzgym.attacks.registry import registry
from byzgym.numerics.distances import row_norms, squared_diameter, take_rows, unit_rows
from byzgym.numerics.moments import at_least_single, honest_moments
from byzgym.validation import check_choice

PERTURBATIONS = ("std", "unit", "sign")


class _WithinSpread(Attack, ABC):
    """The honest mean, moved along a perturbation by the largest length that a subclass allows.

    The paper's gamma is this length divided by that of the perturbation, so only the direction of the
    perturbation matters.
    """

    reads_own = False

    def __init__(self, perturbation: str = "std") -> None:
        self.perturbation: str = check_choice("perturbation", perturbation, PERTURBATIONS)

    @abstractmethod
    def _length(self, deviations: Tensor, direction: Tensor) -> Tensor:
        """How far to go [E], given what honest rows deviate from their mean [E, n, d], and where to [E, d].

        In place of Byzantine rows an honest one occurs again. The direction has length 1 (or 0 where there is
        none).
        """

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, 1, d]; see `Attack.corrupt`."""
        rows = at_least_single(gradients)
        mean, std = honest_moments(rows, byzantine)
        away = {"std": -std, "unit": -mean, "sign": -mean.sign()}[self.perturbation]
        direction = unit_rows(away)
        deviations = _honest_rows(rows, byzantine).sub_(mean[:, None])
        length = self._length(deviations, direction).masked_fill(byzantine.all(1), 0).to(mean.dtype)
        return (mean + length[:, None] * direction)[:, None]


@registry.built_in("min_max")
class MinMax(_WithinSpread):
    """Min-Max of Shejwalkar and Houmansadr 2021, "Manipulating the Byzantine"
    (https://www.ndss-symposium.org/ndss-paper/manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses-for-federated-learning/).
    Byzantine workers submit ``mean + gamma * perturbation`` of the honest gradients, no farther from any of
    them than two of them are from each other.

    With g_i for the honest gradients, gamma is the largest number with ``max_i ||x - g_i|| <= max_ij
    ||g_i - g_j||`` for the submission x. Each honest gradient bounds it by the root of a quadratic equation,
    and the least of these is exact. The authors' notebooks begin at 10 and search by steps down to 1e-5, so
    they find none above 20; Blades searches from 0 to 5, down to 0.01. The attackers know all honest
    gradients, but not the rule.

    With one honest worker, or where the perturbation is zero, they submit the honest mean.

    Args:
        perturbation: "std" (minus the standard deviation in each coordinate, as in the authors' notebooks,
            SignGuard's code, Blades and CRYPTO-KU's library), "unit" (minus the mean, divided by its norm, as
            in FLPoison) or "sign" (minus the signs of the mean).

    Example:
        >>> gradients = torch.tensor([[[1.0], [3.0], [0.0]]])  # mean 2, standard deviation 1
        >>> byzantine = torch.tensor([[False, False, True]])
        >>> MinMax()(gradients, byzantine, AttackContext.standalone(gradients))[0, 2]  # 2 away from 3
        tensor([1.])
    """

    def _length(self, deviations: Tensor, direction: Tensor) -> Tensor:
        along = (deviations * direction[:, None]).sum(-1).double()  # [E, n]
        diameter = squared_diameter(deviations)[:, None]
        # The root t of ||deviation - t direction||^2 = diameter.
        room = (diameter - row_norms(deviations).square()).clamp_min(0)
        return (along + (along.square() + room).sqrt()).amin(1)


@registry.built_in("min_sum")
class MinSum(_WithinSpread):
    """Min-Sum of Shejwalkar and Houmansadr 2021, "Manipulating the Byzantine"
    (https://www.ndss-symposium.org/ndss-paper/manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses-for-federated-learning/).
    Byzantine workers submit ``mean + gamma * perturbation`` of the honest gradients, with a sum of squared
    distances to these that an honest gradient has, too.

    With g_i for the honest gradients, gamma is the largest number with ``sum_i ||x - g_i||^2 <= max_i sum_j
    ||g_i - g_j||^2`` for the submission x. As these sums grow with the squared distance from the mean, the
    submission is exactly as far from the mean as the farthest honest gradient. That is the paper's formula;
    SignGuard's code and FLPoison have it, too. The authors' code bounds the sum by that of the nearest honest
    gradient: ``bound="smallest"`` does so. It searches by steps; the solution here is exact. The attackers
    know all honest gradients, but not the rule.

    With one honest worker, or where the perturbation is zero, they submit the honest mean.

    Args:
        perturbation: "std" (minus the standard deviation in each coordinate, as in the authors' notebooks,
            SignGuard's code, Blades and CRYPTO-KU's library), "unit" (minus the mean, divided by its norm, as
            in FLPoison) or "sign" (minus the signs of the mean).
        bound: Which honest gradient's sum is the bound: "largest" or "smallest".

    Example:
        >>> gradients = torch.tensor([[[1.0], [3.0], [5.0], [0.0]]])  # mean 3
        >>> byzantine = torch.tensor([[False, False, False, True]])
        >>> MinSum("unit")(gradients, byzantine, AttackContext.standalone(gradients))[0, 3]
        tensor([1.])
    """

    def __init__(self, perturbation: str = "std", bound: str = "largest") -> None:
        super().__init__(perturbation)
        self.bound: str = check_choice("bound", bound, ("largest", "smallest"))

    def _length(self, deviations: Tensor, direction: Tensor) -> Tensor:
        norms = row_norms(deviations)
        return norms.amax(1) if self.bound == "largest" else norms.amin(1)


def _honest_rows(rows: Tensor, byzantine: Tensor) -> Tensor:
    """The rows [E, n, d] with the first honest one in place of all Byzantine ones."""
    own = torch.arange(byzantine.shape[1], device=byzantine.device)
    first = byzantine.to(torch.uint8).argmin(1, keepdim=True)
    return take_rows(rows, torch.where(byzantine, first, own))
