"""Numbers that are NaN or infinite: finding them, and finite ones in their place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST_LOSS = 1e30
"""Losses that overflow are reported as this, so that every loss stays a finite number."""


def is_finite(tensor: Tensor) -> bool:
    """Whether the sum is finite; if so, every entry is (huge entries may make the sum overflow)."""
    return math.isfinite(tensor.detach().sum())


def finite_rows(rows: Tensor) -> Tensor:
    """Which rows [..., n, d] have finite entries only: bool [..., n]."""
    rows = rows.detach()
    finite = rows.sum(-1).isfinite()
    if not finite.all():  # huge entries may make a sum overflow, but not half a mean
        # It takes half the time of a largest and a smallest entry, and a pass of isfinite ten times as long.
        width = rows.shape[-1]
        finite = (rows @ rows.new_full((width,), 0.5 / width)).isfinite()
    return finite


def finite_loss(loss: Tensor) -> Tensor:
    """Losses of at most `LARGEST_LOSS`, which stands for NaN and infinity, too.

    In half precision the largest number is less.
    """
    largest = min(LARGEST_LOSS, torch.finfo(loss.dtype).max)
    return torch.nan_to_num(loss, nan=largest, posinf=largest, neginf=largest).clamp(-largest, largest)


def finite_gradient(gradient: Tensor) -> Tensor:
    """Gradients with zeros in place of what is NaN or infinite: there is nothing to learn from it."""
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)


def finite_sum(one: Tensor, other: Tensor) -> Tensor:
    """The sum of finite tensors, in the type of the first; what overflows becomes the largest number."""
    largest = torch.finfo(one.dtype).max
    return (one + other.to(one.dtype)).clamp(-largest, largest)
