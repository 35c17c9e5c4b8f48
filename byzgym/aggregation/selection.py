"""Picking whole rows."""

from __future__ import annotations

from torch import Tensor


def take_row(gradients: Tensor, index: Tensor) -> Tensor:
    """The row [..., d] of gradients [..., n, d] at an index [...]."""
    return take_rows(gradients, index[..., None])[..., 0, :]


def take_rows(gradients: Tensor, indices: Tensor) -> Tensor:
    """The rows [..., k, d] of gradients [..., n, d] at indices [..., k]."""
    flat = gradients.reshape(-1, *gradients.shape[-2:])
    chosen = indices.reshape(len(flat), -1)
    runs = chosen.new_tensor(range(len(flat)))[:, None]
    return flat[runs, chosen].reshape(*indices.shape, gradients.shape[-1])
