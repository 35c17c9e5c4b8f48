import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import LINE, RTOL, both_types, chosen, every_family

from byzgym.aggregation import CGE


def test_on_a_line():
    assert CGE(1)(LINE) == 7 / 4
    assert CGE(2)(-LINE) == -1


def test_first_of_equal_norms_are_kept():
    assert chosen(
        CGE(2).credits(torch.tensor([[3.0, 4.0], [5.0, 0.0], [0.0, 5.0], [-4.0, 3.0], [9.0, 0.0]]))
    ) == [
        0,
        1,
        2,
    ]


@every_family
@both_types
@pytest.mark.parametrize(("n", "f"), [(1, 0), (2, 0), (3, 1), (9, 4), (30, 10)])
def test_against_reference(family, dtype, n, f):
    rows = reference.draw(family, n, 13, seed=n, dtype=dtype)
    norms = np.sqrt((rows.double().numpy() ** 2).sum(1))
    kept = chosen(CGE(f).credits(rows))
    assert len(kept) == n - f
    assert norms[kept].max() <= np.sort(norms)[n - f - 1] * (1 + RTOL[dtype])
