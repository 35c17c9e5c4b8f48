"""A little is enough: the attack that hides within the spread of the honest gradients."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist
from typing import ClassVar

import torch
from torch import Tensor

from byzgym.attacks.base import Attack, AttackContext
from byzgym.attacks.honest import honest_moments
from byzgym.attacks.registry import registry
from byzgym.validation import check_bool, check_real

UNDEFINED_Z = 1.5
"""The z used where the formula gives none: that of the authors' code and of ByzFL."""


@registry.built_in("alie")
class ALittleIsEnough(Attack):
    """All Byzantine workers submit ``mean - z * std`` of the honest gradients, coordinate by coordinate.

    Baruch et al. 2019, "A little is enough". ``std`` is the population standard deviation (division by the
    number of honest workers), as in the authors' code. The paper estimates both moments from the workers it
    corrupts; here, as in later work, they are those of the honest ones.

    Args:
        z: Any finite number, or None for the paper's ``z = Phi^-1((n - m - s) / (n - m))`` with
            ``s = floor(n / 2 + 1) - m``, for each environment from its own n and m. It is undefined, and 1.5
            takes its place, if that argument is not between 0 and 1: with ``m >= floor(n / 2 + 1)``, that is
            with a Byzantine majority, and with ``n <= 2``. With few Byzantine workers it is negative.
        compiled: Whether models of at least 16,384 parameters have their moments computed through
            `torch.compile`, which takes seconds for each number of honest workers, needs a C++ compiler and
            Python's headers on the CPU, and is several times faster from then on.
    """

    reads_own: ClassVar[bool] = False

    def __init__(self, z: float | None = None, compiled: bool = False) -> None:
        self.z = None if z is None else check_real("z (unless None)", z)
        self.compiled = check_bool("compiled", compiled)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """See `Attack.corrupt`."""
        mean, std = honest_moments(gradients, byzantine, self.compiled)
        if self.z is not None:
            return (mean - self.z * std)[:, None]
        table = torch.tensor(_z_table(byzantine.shape[1]), dtype=gradients.dtype, device=gradients.device)
        z = table[byzantine.sum(-1)]
        return (mean - z[:, None] * std)[:, None]


def z_value(num_workers: int, num_byzantine: int) -> float:
    """The paper's z for n workers, m of them Byzantine; 1.5 where it is undefined."""
    honest = num_workers - num_byzantine
    supporters = num_workers // 2 + 1 - num_byzantine
    if not 0 < honest - supporters < honest:
        return UNDEFINED_Z
    return NormalDist().inv_cdf((honest - supporters) / honest)


@lru_cache
def _z_table(num_workers: int) -> tuple[float, ...]:
    return tuple(z_value(num_workers, num_byzantine) for num_byzantine in range(num_workers + 1))
