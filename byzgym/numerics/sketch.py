"""Short vectors that keep the inner products of long ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Sketch:
    """A signed random projection: signs, then sums over buckets of coordinates (count sketch).

    The expected inner product of two sketches is that of the vectors; its standard deviation is about their
    norms' product over the square root of the number of buckets. Source: Charikar, Chen and Farach-Colton
    2002, "Finding frequent items in data streams" (https://doi.org/10.1007/3-540-45465-9_59), here with
    every k-th coordinate in a bucket.

    Args:
        dimension: d, the length of the vectors.
        size: The largest number of buckets. Vectors that are not longer stay as they are.
        seed: Of the signs.
        device: Where the vectors are.

    Attributes:
        size: The number k of buckets.

    Example:
        >>> sketch = Sketch(1000, 100)
        >>> sketch(torch.ones(2, 1000)).shape
        torch.Size([2, 100])
    """

    def __init__(self, dimension: int, size: int, seed: int = 0, device: torch.device | str = "cpu") -> None:
        self.dimension, self._depth = dimension, math.ceil(dimension / size)
        self.size = math.ceil(dimension / self._depth)
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(2, (self._depth * self.size,), generator=generator).to(device) * 2.0 - 1
        self._signs = signs.view(self._depth, self.size)  # [depth, k]; coordinate j goes to bucket j mod k

    def __call__(self, rows: Tensor) -> Tensor:
        """The sketches [..., k] of rows [..., d]."""
        if self._depth == 1:
            return rows
        signs = self._signs.to(rows.dtype)
        whole = (self._depth - 1) * self.size
        head, tail = rows[..., :whole].unflatten(-1, (self._depth - 1, self.size)), rows[..., whole:]
        sketch = (head * signs[:-1]).sum(-2)
        sketch[..., : tail.shape[-1]] += tail * signs[-1, : tail.shape[-1]]
        return sketch
