import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import LINE, RTOL, both_types, chosen

from byzgym.aggregation import DnC


def scores(rows):
    """The squared projections on the first right singular vector."""
    rows = rows.double().numpy()
    centred = rows - rows.mean(0)
    return (centred @ np.linalg.svd(centred, full_matrices=False)[2][0]) ** 2


def test_on_a_line():
    # Farthest from the mean 21.4 are 100 and 0.
    assert DnC(1)(LINE) == 7 / 4
    assert chosen(DnC(2).credits(LINE)) == [1, 2, 3]
    assert chosen(DnC(2, filter_fraction=0.5).credits(LINE)) == [0, 1, 2, 3]
    assert chosen(DnC(2, filter_fraction=9).credits(LINE)) == [3]  # never all


def test_equal_submissions_tie():
    assert chosen(DnC(2).credits(torch.ones(5, 3))) == [0, 1, 2]


@pytest.mark.parametrize("family", ["gaussian", "offset", "row_magnitudes", "zeros"])
@both_types
@pytest.mark.parametrize(("n", "f"), [(1, 0), (2, 0), (3, 1), (9, 3), (30, 14)])
def test_against_reference(family, dtype, n, f):
    rows = reference.draw(family, n, 6, seed=n, dtype=dtype)
    kept = chosen(DnC(f).credits(rows))
    expected, left = scores(rows), [i for i in range(n) if i not in kept]
    assert len(kept) == n - f
    slack = RTOL[dtype] * expected.max()
    assert not left or expected[kept].max() <= expected[left].min() + slack


@pytest.mark.parametrize("seed", range(5))
def test_what_all_iterations_keep(seed):
    rows = reference.draw("gaussian", 12, 200, seed=seed, dtype=torch.float64)
    rule = DnC(2, sub_dimension=20, iterations=3, seed=seed)
    draws, kept = rule._generators(rows)[0], set(range(12))
    for _ in range(3):
        part = scores(rows[:, draws.choice(200, 20, replace=False, shuffle=False)])
        kept &= set(np.argsort(part)[:10])
    assert chosen(rule.credits(rows)) == sorted(kept)


def test_kept_most_often_where_none_is_kept_always():
    # Each submission stands out in one coordinate, and an iteration sees one.
    rows = torch.eye(3, dtype=torch.float64)
    rule = DnC(1, sub_dimension=1, iterations=30)
    draws, votes = rule._generators(rows)[0], np.zeros(3)
    for _ in range(30):
        votes += np.arange(3) != draws.choice(3, 1, replace=False, shuffle=False)
    assert votes.max() < 30
    assert chosen(rule.credits(rows)) == np.flatnonzero(votes == votes.max()).tolist()


@pytest.mark.parametrize("wrong", [{"sub_dimension": 0}, {"iterations": 0}, {"filter_fraction": -1}], ids=str)
def test_bad_parameters_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DnC(**wrong)
