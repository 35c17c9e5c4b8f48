import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from byzgym.numerics.finite import finite_rows

ENTRIES = st.sampled_from([0.0, -1.5, 3e38, -3e38, math.nan, math.inf, -math.inf])


@given(st.lists(st.lists(ENTRIES, min_size=4, max_size=4), min_size=1, max_size=6))
def test_rows_are_finite_where_all_their_entries_are(rows):
    found = finite_rows(torch.tensor(rows)[None])
    assert found.tolist() == [[all(map(math.isfinite, row)) for row in rows]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    largest = torch.finfo(dtype).max
    rows = torch.tensor([[largest, largest], [largest, math.nan], [-math.inf, 0]], dtype=dtype)
    assert finite_rows(rows).tolist() == [True, False, False]
