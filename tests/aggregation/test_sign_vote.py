import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import both_types, every_family

from byzgym.aggregation import SignVote


def test_a_vote():
    rows = torch.tensor([[5.0, -1e30, 0.0, 1.0], [-1.0, -1e-30, 0.0, -1.0], [2.0, 3.0, -0.1, 0.0]])
    assert SignVote(1)(rows).tolist() == [1, -1, -1, 0]


@every_family
@both_types
@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_against_reference(family, dtype, n):
    rows = reference.draw(family, n, 30, seed=n, dtype=dtype)
    expected = [np.sign(sum((value > 0) - (value < 0) for value in column)) for column in rows.T.tolist()]
    assert SignVote()(rows).tolist() == expected


def test_many_votes_in_half_precision():
    rows = torch.ones(601, 3, dtype=torch.bfloat16)
    rows[:300, 0], rows[:301, 1] = -1, -1
    assert SignVote(300)(rows).tolist() == [1, -1, 1]
