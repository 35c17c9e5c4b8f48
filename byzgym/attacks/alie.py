"""A little is enough: the attack that hides within the spread of the honest gradients."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import torch
from torch import Tensor

from byzgym.attacks.base import Attack, AttackContext, honest_count, honest_mean
from byzgym.attacks.registry import registry
from byzgym.validation import check_real

UNDEFINED_Z = 1.5
"""The z used where the formula gives none: that of the authors' code and of ByzFL."""


@registry.built_in("alie")
class ALittleIsEnough(Attack):
    """``mean_j - z * std_j`` in each coordinate j, over the honest workers; the same for all Byzantine ones.

    Baruch et al. 2019, "A little is enough". ``std`` is the population standard deviation (division by the
    number of honest workers), as in the authors' code. The paper estimates both moments from the workers it
    corrupts; here, as in later work, they are those of the honest ones.

    Args:
        z: Any finite number, or None for the paper's ``z = Phi^-1((n - m - s) / (n - m))`` with
            ``s = floor(n / 2 + 1) - m``, for each environment from its own n and m. It is undefined, and 1.5
            takes its place, if that argument is not between 0 and 1: with ``m >= floor(n / 2 + 1)``, that is
            with a Byzantine majority, and with ``n <= 2``. With few Byzantine workers it is negative.
    """

    def __init__(self, z: float | None = None) -> None:
        self.z = None if z is None else check_real("z (unless None)", z)

    def __call__(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return the common submission, shape [E, 1, d]."""
        mean = honest_mean(gradients, byzantine)
        std = _spread(gradients, mean, byzantine)
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


def _spread(rows: Tensor, mean: Tensor, byzantine: Tensor) -> Tensor:
    """Population standard deviation [E, d] of the honest rows of [E, n, d] around their mean [E, d].

    Deviations are taken before squaring, against cancellation. Squares of float32 deviations below 1e-19
    vanish and above 1e19 overflow; multiplying by a power of two, which rounds nothing, moves that window to
    where gradients are, and the environments that still overflow are computed in double precision.
    """
    spread = _scaled_spread(rows, mean, byzantine, 2.0**40)
    overflowed = ~spread.sum(-1).isfinite()
    if overflowed.any():
        exact = _scaled_spread(
            rows[overflowed].double(), mean[overflowed].double(), byzantine[overflowed], 1.0
        )
        spread[overflowed] = exact.to(spread.dtype)
    return spread


def _scaled_spread(rows: Tensor, mean: Tensor, byzantine: Tensor, stretch: float) -> Tensor:
    weights = (~byzantine).to(rows.dtype) * stretch
    # In place: with a second temporary as large as the gradients the allocator returns memory to the system
    # and faults it in again at each call, which takes several times as long as the arithmetic.
    squares = (rows - mean[:, None]).mul_(weights[..., None]).square_()
    return squares.sum(1).div_(honest_count(byzantine)).sqrt_().div_(stretch)
