import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import LINE, RTOL, both_types, chosen, every_family, sizes

from byzgym.aggregation import Krum, MultiKrum


def test_on_a_line():
    # Scores with n - f - 2 = 2 neighbours: 1+4, 1+1, 1+4, 4+9, 9216+9604.
    assert Krum(1)(LINE) == 1
    assert MultiKrum(1)(LINE) == 7 / 4
    assert MultiKrum(1, num_selected=2)(LINE) == 0.5


def test_first_of_equal_scores_wins():
    # A square and its centre twice: both centres score the same.
    rows = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, -1.0], [0.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert Krum(1).credits(rows).tolist() == [0, 1, 0, 0, 0, 0]


@every_family
@both_types
@sizes
def test_krum_against_reference(family, dtype, n, f):
    rows = reference.draw(family, n, 13, seed=n, dtype=dtype)
    scores = reference.krum_scores(rows, f)
    (best,) = chosen(Krum(f).credits(rows))
    assert scores[best] <= scores.min() * (1 + RTOL[dtype])
    assert torch.equal(Krum(f)(rows), rows[best])


@every_family
@both_types
@sizes
def test_multi_krum_against_reference(family, dtype, n, f):
    rows = reference.draw(family, n, 13, seed=n, dtype=dtype)
    scores = reference.krum_scores(rows, f)
    for selected in (1, n - f, n):
        picked = chosen(MultiKrum(f, selected).credits(rows))
        assert len(picked) == selected
        # No row left out scores better than one picked.
        left = np.delete(scores, picked)
        assert selected == n or scores[picked].max() <= left.min() * (1 + RTOL[dtype])


def test_num_selected_beyond_n_is_refused():
    with pytest.raises(ValueError, match="num_selected"):
        MultiKrum(num_selected=6)(torch.ones(5, 2))
