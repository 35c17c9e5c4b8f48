"""Picking whole rows."""

from __future__ import annotations

import torch
from torch import Tensor


def take_row(gradients: Tensor, index: Tensor) -> Tensor:
    """The row [..., d] of gradients [..., n, d] at an index [...]."""
    return take_rows(gradients, index[..., None])[..., 0, :]


def take_rows(gradients: Tensor, indices: Tensor) -> Tensor:
    """The rows [..., k, d] of gradients [..., n, d] at indices [..., k]."""
    num_rows, dimension = gradients.shape[-2:]
    chosen = indices.reshape(gradients.shape[:-2].numel(), -1)
    offsets = num_rows * torch.arange(len(chosen), device=chosen.device)
    # Four times as fast as indexing with two tensors.
    flat = gradients.reshape(-1, dimension).index_select(0, (chosen + offsets[:, None]).flatten())
    return flat.reshape(*indices.shape, dimension)
