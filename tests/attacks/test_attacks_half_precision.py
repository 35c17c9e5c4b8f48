"""Honest rows of half precision whose sum is too large for their type, though their mean is not."""

import pytest
import torch
from attack_cases import mask_of

from byzgym.attacks.honest import LONG_ROW, honest_mean, honest_moments


@pytest.mark.parametrize("dimension", [3, LONG_ROW])
def test_the_mean_of_large_half_precision_rows_is_finite(dimension):
    rows = torch.full((1, 4, dimension), 40_000, dtype=torch.float16)
    mask = mask_of(4, [1])
    mean, (again, std) = honest_mean(rows, mask), honest_moments(rows, mask)
    for value, expected in ((mean, 40_000), (again, 40_000), (std, 0)):
        assert value.dtype == torch.float16
        assert value.unique().tolist() == [expected]
