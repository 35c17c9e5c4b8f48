"""Which submissions count as received: those whose entries are all finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether the sum is finite; if so, every entry is (huge entries may make the sum overflow)."""
    return math.isfinite(tensor.detach().sum())


def received_rows(gradients: Tensor) -> Tensor | None:
    """A mask [..., n] of the rows without a non-finite entry, or None where that is all of them."""
    if is_finite(gradients):
        return None
    # A pass of isfinite takes some fifty times as long as a sum, so it looks at suspect rows only.
    received = torch.isfinite(gradients.detach().sum(-1))
    suspect = ~received
    received[suspect] = torch.isfinite(gradients[suspect]).all(-1)
    return None if received.all() else received
