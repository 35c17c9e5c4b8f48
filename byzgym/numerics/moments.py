"""Sum, mean and standard deviation of the honest workers' gradients.

The rows of Byzantine workers have no effect on the results, so an attack that needs nothing else may set
`Attack.reads_own` to False. Half-precision rows are computed in single precision. Results are detached.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LONG_ROW = 1 << 14
"""Coordinates from which rows are added one by one: masks for all take a fifth more of a round under ipm."""
STRETCH = 2.0**40
"""Multiplies deviations, without rounding, before they are squared: squares below 1e-38 vanish in float32."""


def honest_sum(rows: Tensor, byzantine: Tensor) -> Tensor:
    """Sum of the honest rows.

    Args:
        rows: Gradients, shape [E, n, d]. The honest ones must be finite.
        byzantine: Which workers are Byzantine, bool, shape [E, n].

    Returns:
        Shape [E, d]; zero where every worker is Byzantine.

    Example:
        >>> rows = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [torch.nan, 100.0]]])
        >>> honest_sum(rows, torch.tensor([[False, False, True]]))
        tensor([[4., 8.]])
    """
    return _sum(at_least_single(rows), byzantine).to(rows.dtype)


def honest_mean(rows: Tensor, byzantine: Tensor) -> Tensor:
    """Mean of the honest rows, shape [E, d]; see `honest_sum`."""
    # The sum of half-precision rows may be too large for their type, so it is divided in single precision.
    return (_sum(at_least_single(rows), byzantine) / _honest_count(byzantine)).to(rows.dtype)


def honest_moments(rows: Tensor, byzantine: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the honest rows in each coordinate, each of shape [E, d].

    The standard deviation is that of the population: squares are divided by the number of honest workers.
    For the arguments see `honest_sum`.

    Example:
        >>> rows = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [torch.nan, 100.0]]])
        >>> honest_moments(rows, torch.tensor([[False, False, True]]))
        (tensor([[2., 4.]]), tensor([[1., 2.]]))
    """
    wide = at_least_single(rows)
    mean = honest_mean(wide, byzantine)
    std = _sum_of_squares(wide, mean, byzantine).div_(_honest_count(byzantine)).sqrt_().div_(STRETCH)
    if wide.dtype != torch.float64 and not math.isfinite(std.sum()):
        # Only the environments whose squares overflow: the others must not depend on them.
        overflowed = ~std.isfinite().all(-1)
        exact = honest_moments(wide[overflowed].double(), byzantine[overflowed])
        mean[overflowed], std[overflowed] = (moment.to(wide.dtype) for moment in exact)
    return mean.to(rows.dtype), std.to(rows.dtype)


def at_least_single(rows: Tensor) -> Tensor:
    """The rows, detached, in single precision if they are in half precision."""
    return rows.detach() if rows.element_size() >= 4 else rows.detach().float()


def _sum(rows: Tensor, byzantine: Tensor) -> Tensor:
    if rows.shape[2] < LONG_ROW:
        # Not torch.bmm, whose last bits depend on the number of environments.
        return _masked_sum(rows, byzantine)
    total = rows.new_zeros(rows.shape[::2])
    for env, worker in (~byzantine).nonzero().tolist():
        total[env].add_(rows[env, worker])
    return total


def _sum_of_squares(rows: Tensor, mean: Tensor, byzantine: Tensor) -> Tensor:
    """Sum [E, d] of the squared deviations from the mean [E, d], multiplied by `STRETCH` before squaring."""
    if rows.shape[2] < LONG_ROW:
        return _masked_sum(rows - mean[:, None], byzantine, STRETCH)
    total, deviation, shift = torch.zeros_like(mean), torch.empty_like(mean[0]), mean * -STRETCH
    for env, worker in (~byzantine).nonzero().tolist():
        torch.add(shift[env], rows[env, worker], alpha=STRETCH, out=deviation)
        total[env].addcmul_(deviation, deviation)
    return total


def _masked_sum(values: Tensor, byzantine: Tensor, stretch: float | None = None) -> Tensor:
    """Sum [E, d] of the honest rows of values [E, n, d], or of the squares of ``stretch`` times them."""
    honest = (~byzantine).to(values.dtype)[..., None]
    # A product takes a third of the time of torch.where, which is needed where Byzantine rows are not finite.
    masked = values * honest if stretch is None else (values * (honest * stretch)).square_()
    total = masked.sum(1)
    if not math.isfinite(total.sum()):
        masked = torch.where(byzantine[..., None], 0, values)
        total = (masked if stretch is None else masked.mul_(stretch).square_()).sum(1)
    return total


def _honest_count(byzantine: Tensor) -> Tensor:
    """Number of honest workers, shape [E, 1]; 1 where there are none, so that one can divide by it."""
    return (~byzantine).sum(-1, keepdim=True).clamp_(min=1)
