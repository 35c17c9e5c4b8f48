"""Short vectors that keep the inner products of long ones."""

from __future__ import annotations

import torch
from torch import Tensor

from byzgym.validation import check_int


class Sketch:
    """Signed sums over blocks of coordinates: maps rows [..., d] to [..., k].

    Each coordinate gets a random sign, and an entry of the sketch is the sum over a block of neighbours. The
    lengths of the blocks differ by at most one; the longer ones come first. Over the signs, the mean of
    <S x, S y> is <x, y>, and its standard deviation about |x| |y| / sqrt(k). This is the count sketch of
    Charikar, Chen and Farach-Colton 2002, "Finding frequent items in data streams"
    (https://doi.org/10.1007/3-540-45465-9_59), with blocks in place of random buckets: one product and one
    sum, and an entry belongs to one layer of a model (but at the borders).

    Args:
        dimension: d, the length of the rows.
        size: The largest number k of entries. Rows that are not longer stay as they are.
        seed: Of the signs. Sketches with the same numbers and seed are the same, on every device.
        device: Where the rows are.

    Attributes:
        size: k, the number of entries.
        signs: Of the coordinates, shape [d].

    Example:
        >>> sketch = Sketch(dimension=5, size=2)
        >>> sketch.signs
        tensor([-1.,  1.,  1., -1.,  1.])
        >>> sketch(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))  # -1 + 2 + 3 and -4 + 5
        tensor([4., 1.])
    """

    def __init__(self, dimension: int, size: int, seed: int = 0, device: torch.device | str = "cpu") -> None:
        self.dimension = check_int("dimension", dimension, low=1)
        self.size = min(check_int("size", size, low=1), dimension)
        bits = torch.randint(2, (dimension,), generator=torch.Generator().manual_seed(seed))
        self.signs = (2.0 * bits - 1).to(device)

    def __call__(self, rows: Tensor) -> Tensor:
        """Sketches [..., k] of rows [..., d], in their type."""
        if self.size == self.dimension:
            return rows
        signed = rows * self.signs.to(rows)
        length, longer = divmod(self.dimension, self.size)
        cut = longer * (length + 1)
        parts = (signed[..., :cut], (longer, length + 1)), (signed[..., cut:], (self.size - longer, length))
        # A product with ones takes a sixth of the time of a sum over so few numbers.
        sums = [part.unflatten(-1, blocks) @ part.new_ones(blocks[1]) for part, blocks in parts]
        return torch.cat(sums, -1)
