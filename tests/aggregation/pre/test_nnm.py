"""Nearest-neighbour mixing beside a loop over numpy arrays."""

import aggregation_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byzgym.aggregation import pre
from byzgym.aggregation.pre import NNM


def is_nnm(rows, num_byzantine, result, rtol):
    """Whether each row is a mean of n - f rows, itself among them, none of which is farther than it may be.

    Where distances tie to the last digits, each choice that is as near is right.
    """
    rows = np.asarray(rows, dtype=np.float64)
    between, keep = reference.distances(rows), len(rows) - num_byzantine
    for i, row in enumerate(np.asarray(result, dtype=np.float64)):
        order = np.argsort(between[i], kind="stable")
        farthest = between[i][order[keep - 1]]
        sure = between[i] < farthest * (1 - rtol)
        sure[i] = True
        free = np.flatnonzero(~sure & (between[i] <= farthest * (1 + rtol) + 1e-300))
        left = keep - sure.sum()
        size = np.abs(rows[order[:keep]]).max(0)
        if len(free) == left or np.ptp(rows[free], axis=0).max() <= rtol * np.abs(rows[free]).max():
            total = rows[sure].sum(0) + (rows[free[:left]].sum(0) if left else 0)
            if not (np.abs(total / keep - row) <= rtol * size + 1e-44).all():
                return False
    return True


def test_values_by_hand():
    rows = torch.tensor([[0.0, 0.0], [0.0, 2.0], [4.0, 0.0], [100.0, 0.0]])
    # Of (0, 0), (0, 2) and (4, 0), each other one is nearer than (100, 0); that one has (4, 0) and (0, 0).
    near, far = [4 / 3, 2 / 3], [104 / 3, 0]
    torch.testing.assert_close(NNM(num_byzantine=1)(rows), torch.tensor([near, near, near, far]))
    third = 1 / 3
    expected = torch.tensor([[third, third, third, 0]] * 3 + [[third, 0, third, third]], dtype=torch.float64)
    torch.testing.assert_close(NNM(num_byzantine=1).matrix(rows), expected)


def test_of_equally_near_ones_the_first_counts():
    rows = torch.tensor([[0.0], [1.0], [-1.0], [0.0], [0.0]])
    matrix = NNM(num_byzantine=2).matrix(rows)
    three = matrix.nonzero()[:, 1].view(5, 3).tolist()
    assert three == [[0, 3, 4], [0, 1, 3], [0, 2, 3], [0, 3, 4], [0, 3, 4]]
    assert NNM(num_byzantine=2).matrix(torch.ones(5, 2)).diagonal().gt(0).all()  # itself, also among equals


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 14),
    d=st.integers(1, 30),
    family=st.sampled_from(reference.FAMILIES),
    portion=st.floats(0, 1),
)
def test_beside_the_reference(seed, n, d, family, portion):
    rows = reference.draw(family, n, d, seed)
    f = int(portion * ((n - 1) // 2))
    result = NNM(num_byzantine=f)(rows)
    assert result.shape == rows.shape
    assert is_nnm(rows, f, result, 1e-4)


def test_more_than_half_is_refused():
    assert NNM().max_byzantine(10) == 4
    with pytest.raises(ValueError, match=r"NNM needs n >= 2f \+ 1, got n=4 and num_byzantine=2"):
        pre.make("nnm", num_byzantine=2)(torch.ones(4, 3))


def test_a_cluster_far_away_keeps_its_digits():
    honest = 1 + 1e-4 * reference.draw("gaussian", 5, 8, 0)
    rows = torch.cat([honest, torch.full((2, 8), 1e25)])
    mixed = NNM(num_byzantine=2)(rows)[:5]
    torch.testing.assert_close(mixed, honest.mean(0).expand(5, -1), rtol=2e-7, atol=0)
