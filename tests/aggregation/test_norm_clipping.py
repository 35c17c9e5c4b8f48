import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import LINE, both_types, every_family

from byzgym.aggregation import NormClipping


@pytest.mark.parametrize(("max_norm", "expected"), [(2.0, 7 / 5), (3.0, 9 / 5)])
def test_on_a_line(max_norm, expected):
    torch.testing.assert_close(NormClipping(max_norm=max_norm)(LINE), torch.tensor([expected]))


@every_family
@both_types
@pytest.mark.parametrize("max_norm", [1e-20, 2.0, 1e25])
def test_against_reference(family, dtype, max_norm):
    rows = reference.draw(family, 11, 7, seed=3, dtype=dtype)
    exact = rows.double().numpy()
    norms = np.sqrt((exact**2).sum(1))
    factors = np.array([min(1.0, max_norm / norm) if norm else 1.0 for norm in norms])
    result = NormClipping(max_norm=max_norm)(rows).double().numpy()
    clipped = factors[:, None] * exact
    rtol = 10 * torch.finfo(dtype).eps
    assert (np.abs(result - clipped.mean(0)) <= rtol * np.abs(clipped).max(0) + 1e-44).all()
