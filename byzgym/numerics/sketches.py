"""Short vectors that keep the inner products of long ones."""

from __future__ import annotations

import torch
from torch import Tensor

from byzgym.validation import check_int

SEED = 0
"""Of the signs, so that all sketches from d numbers to so many are the same."""


class Sketch:
    """Signed sums: maps rows [..., d] to [..., size].

    Each number gets a fixed random sign. An entry of the sketch is the sum over a block of neighbours; the
    lengths of the blocks differ by at most one, and the longer ones come first. Over the random signs, the
    mean of <S x, S y> is <x, y>, so norms and cosines survive up to noise that falls with the size. This is
    the hashing of Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning"
    (https://arxiv.org/abs/0902.2206), with blocks in place of random buckets: one product and two sums.

    Args:
        dimension: d.
        size: Numbers in a sketch, from 1 to d.
        seed: Of the signs.

    Raises:
        ValueError: If the size is not from 1 to d.

    Example:
        >>> sketch = Sketch(dimension=5, size=2)
        >>> sketch.signs
        tensor([-1.,  1.,  1., -1.,  1.])
        >>> sketch(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))  # -1 + 2 + 3 and -4 + 5
        tensor([4., 1.])
    """

    def __init__(self, dimension: int, size: int, seed: int = SEED) -> None:
        check_int("dimension", dimension, low=1)
        self.size = check_int("size", size, low=1, high=dimension)
        bits = torch.randint(2, (dimension,), generator=torch.Generator().manual_seed(seed))
        self.signs = 2.0 * bits - 1  # [d]

    def __call__(self, rows: Tensor) -> Tensor:
        """Sketches [..., size] of rows [..., d], in their type."""
        self.signs = self.signs.to(rows.device)
        signed = rows * self.signs.to(rows.dtype)
        length, longer = divmod(len(self.signs), self.size)
        cut = longer * (length + 1)
        parts = (signed[..., :cut], (longer, length + 1)), (signed[..., cut:], (self.size - longer, length))
        return torch.cat([part.unflatten(-1, blocks).sum(-1) for part, blocks in parts], -1)
