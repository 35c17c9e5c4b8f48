import aggregation_reference as reference
import pytest
import torch
from aggregation_reference import LINE, both_types, chosen

from byzgym.aggregation import FABA


def test_on_a_line():
    # The farthest from 21.4 is 100; from the mean 1.75 of the rest it is 4.
    assert FABA(1)(LINE) == 7 / 4
    assert FABA(2)(LINE) == 1


@pytest.mark.parametrize("family", ["gaussian", "equal_rows", "row_magnitudes", "offset", "far_cluster"])
@both_types
@pytest.mark.parametrize(("n", "f"), [(3, 1), (5, 2), (8, 3), (20, 6), (40, 17)])
def test_against_reference(family, dtype, n, f):
    rows = reference.draw(family, n, 6, seed=n, dtype=dtype)
    kept = chosen(FABA(f).credits(rows))
    assert frozenset(kept) in reference.faba_outcomes(rows, f, 1e-4)


def test_first_of_equal_rows_is_dropped():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        points = torch.randn(3, 1, generator=generator, dtype=torch.float64)
        credits = FABA(1).credits(torch.cat([points] * 5))
        assert int((credits == 0).nonzero()) < 3
