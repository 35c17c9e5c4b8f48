"""Moments of the honest workers' gradients, for attacks that know these.

None of them looks at Byzantine rows: an attack that needs nothing else may set `Attack.reads_own` to False.
Rows of half precision are summed in single precision, and all results are detached.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
import torch.fx
from torch import Tensor

from byzgym.numerics.compilation import compile_graph

LONG_ROW = 1 << 14
"""Entries from which going through the honest rows one by one beats masking those of all environments."""
BLOCK = 1 << 17
"""Columns whose running sums stay in the cache while row after row is added."""
STRETCH = 2.0**40
"""Squares of float32 numbers below 1e-19 vanish and above 1e19 overflow. Multiplying by a power of two, which
rounds nothing, moves that window to where deviations of gradients are."""


def honest_sum(rows: Tensor, byzantine: Tensor) -> Tensor:
    """Sum of the honest rows.

    Args:
        rows: Shape [E, n, d]; the honest ones finite.
        byzantine: Bool, shape [E, n].

    Returns:
        Shape [E, d]; zero where every worker is Byzantine.
    """
    rows = rows.detach()
    if rows.element_size() < 4:
        return honest_sum(rows.float(), byzantine).to(rows.dtype)
    if rows.shape[2] >= LONG_ROW:
        total = rows.new_zeros(rows.shape[::2])
        for env, columns, honest in _honest_blocks(rows, byzantine):
            part = total[env, columns]
            for row in honest:
                part += row
        return total
    # Not torch.bmm, whose last bits depend on the number of environments in the batch; nor masked_fill, which
    # takes four times as long as a product.
    total = (rows * (~byzantine).to(rows.dtype)[..., None]).sum(1)
    if not math.isfinite(total.sum()):
        total = rows.masked_fill(byzantine[..., None], 0).sum(1)
    return total


def honest_mean(rows: Tensor, byzantine: Tensor) -> Tensor:
    """Mean of the honest rows; see `honest_sum`."""
    if rows.element_size() < 4:  # the sum may be too large for the type of the mean
        return honest_mean(rows.float(), byzantine).to(rows.dtype)
    return honest_sum(rows, byzantine).div_(_honest_count(byzantine))


def honest_moments(rows: Tensor, byzantine: Tensor, compiled: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of the honest rows in each coordinate.

    Differences are taken before squaring, against cancellation; environments whose squares overflow are
    computed in double precision.

    Args:
        rows: Shape [E, n, d]; the honest ones finite.
        byzantine: Bool, shape [E, n].
        compiled: Whether long rows go through `torch.compile`, once for each number of honest workers.

    Returns:
        Two tensors of shape [E, d]; zero where every worker is Byzantine.

    Raises:
        RuntimeError: If `torch.compile` fails.
    """
    rows = rows.detach()
    if rows.element_size() < 4:
        mean, std = honest_moments(rows.float(), byzantine, compiled)
        return mean.to(rows.dtype), std.to(rows.dtype)
    count = _honest_count(byzantine)
    if rows.shape[2] < LONG_ROW:
        mean = honest_mean(rows, byzantine)
        weights = (~byzantine).to(rows.dtype) * STRETCH
        # In place: memory for a second such temporary would come anew from the system at each call.
        squares = (rows - mean[:, None]).mul_(weights[..., None]).square_().sum(1)
    elif compiled:
        mean, squares = _moments_in_one_kernel(rows, byzantine)
    else:
        mean, squares = _moments_of_long_rows(rows, byzantine, count)
    std = squares.div_(count).sqrt_().div_(STRETCH)
    if not math.isfinite(std.sum()):
        overflowed = ~std.isfinite().all(-1)
        mask, number = byzantine[overflowed][..., None], count[overflowed]
        honest = rows[overflowed].double().masked_fill_(mask, 0)
        center = honest.sum(1) / number
        squares = (honest - center[:, None]).masked_fill_(mask, 0).square_().sum(1)
        mean[overflowed], std[overflowed] = center.to(mean.dtype), (squares / number).sqrt_().to(std.dtype)
    return mean, std


def _moments_of_long_rows(rows: Tensor, byzantine: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and the sum of the squared deviations from it times `STRETCH`, both [E, d].

    One pass over the rows, by their differences from the first honest one. It is one of them, so that no more
    than a factor of the number of rows is lost to cancellation.
    """
    mean, squares = rows.new_zeros(2, *rows.shape[::2])
    for env, columns, honest in _honest_blocks(rows, byzantine):
        if honest:
            first, *others = honest
            total, square = mean[env, columns], squares[env, columns]
            origin = first * STRETCH
            difference = torch.empty_like(origin)
            for row in others:
                torch.sub(origin, row, alpha=STRETCH, out=difference)
                total += difference
                square.addcmul_(difference, difference)
            total /= count[env]
            square.addcmul_(total, total, value=-len(honest)).clamp_min_(0)
            torch.sub(first, total, alpha=1 / STRETCH, out=total)
    return mean, squares


def _moments_in_one_kernel(rows: Tensor, byzantine: Tensor) -> tuple[Tensor, Tensor]:
    """What `_moments_of_long_rows` gives, up to rounding."""
    # Not the halves of one tensor: kernels for inputs that share memory are slow.
    mean, squares = rows.new_zeros(rows.shape[::2]), rows.new_zeros(rows.shape[::2])
    for env, mask in enumerate(byzantine.tolist()):
        honest = [row for row, is_byzantine in zip(rows[env], mask, strict=True) if not is_byzantine]
        if honest:
            _kernel(len(honest))(mean[env], squares[env], *honest)
    return mean, squares


@lru_cache(maxsize=64)
def _kernel(num_honest: int) -> Callable[..., None]:
    """`_write_moments` of so many rows, compiled by its first call."""
    graph = torch.fx.Graph()
    arguments = [graph.placeholder(f"argument_{i}") for i in range(2 + num_honest)]
    graph.output(graph.call_function(_write_moments, tuple(arguments)))
    return compile_graph(graph, operations=5 * num_honest)


def _write_moments(mean: Tensor, squares: Tensor, *rows: Tensor) -> None:
    # As one kernel it reads every row once, so that it can afford the difference from the mean itself.
    center = rows[0]
    for row in rows[1:]:
        center = center + row
    center = center / len(rows)
    total = torch.zeros_like(center)
    for row in rows:
        total = total + ((row - center) * STRETCH).square()
    mean.copy_(center)
    squares.copy_(total)


def _honest_blocks(rows: Tensor, byzantine: Tensor) -> Iterator[tuple[int, slice, list[Tensor]]]:
    """For each environment and block of columns the honest rows, as far as they lie in the block."""
    for env, mask in enumerate(byzantine.tolist()):
        honest = [worker for worker, is_byzantine in enumerate(mask) if not is_byzantine]
        for start in range(0, rows.shape[2], BLOCK):
            columns = slice(start, start + BLOCK)
            yield env, columns, [rows[env, worker, columns] for worker in honest]


def _honest_count(byzantine: Tensor) -> Tensor:
    """Number of honest workers, shape [E, 1], but 1 where there are none, so that one can divide by it."""
    return (~byzantine).sum(-1, keepdim=True).clamp_(min=1)
