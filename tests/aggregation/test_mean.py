import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import LINE, both_types, every_family

from byzgym.aggregation import Mean


def test_on_a_line():
    torch.testing.assert_close(Mean()(LINE), torch.tensor([21.4]))


@every_family
@both_types
@pytest.mark.parametrize("n", [1, 60])
def test_against_reference(family, dtype, n):
    rows = reference.draw(family, n, 7, seed=n, dtype=dtype)
    exact = rows.double().numpy()
    error = np.abs(Mean()(rows).double().numpy() - exact.mean(0))
    assert (error <= 10 * torch.finfo(dtype).eps * np.abs(exact).max(0)).all()
