import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import LINE, RTOL, both_types, chosen, every_family

from byzgym.aggregation import MoNNA, ServerView, monna


def test_on_a_line():
    assert MoNNA(2)(LINE) == 1
    torch.testing.assert_close(MoNNA(2, worker=3)(LINE), torch.tensor([7 / 3]))
    assert chosen(MoNNA(2, worker=4).credits(LINE)) == [2, 3, 4]


def test_first_of_equally_near_ones_counts():
    assert chosen(MoNNA(1, worker=1).credits(torch.tensor([[1.0], [0.0], [-1.0]]))) == [0, 1]


@every_family
@both_types
@pytest.mark.parametrize(("n", "f", "worker"), [(1, 0, 0), (3, 1, 2), (9, 4, 0), (20, 6, 11)])
def test_against_reference(family, dtype, n, f, worker):
    rows = reference.draw(family, n, 13, seed=n, dtype=dtype)
    kept = chosen(MoNNA(f, worker).credits(rows))
    assert len(kept) == n - f
    assert worker in kept or (rows[kept] == rows[worker]).all()
    between = reference.distances(rows)[worker]
    assert between[kept].max() <= np.sort(between)[n - f - 1] * (1 + RTOL[dtype])


def test_long_rows_are_added_up_by_blocks(monkeypatch):
    rows = reference.draw("gaussian", 9, 100, seed=0)
    expected = MoNNA(4).credits(rows)
    monkeypatch.setattr(monna, "BLOCK", 7)
    assert torch.equal(MoNNA(4).credits(rows), expected)


def test_the_trusted_worker_is_found_among_the_accepted():
    runs = torch.stack([reference.draw("gaussian", 8, 5, seed=seed) for seed in range(4)])
    runs[1, 0] = runs[2, 5] = runs[3, 2] = torch.nan
    credits = MoNNA(2, worker=5).credits(runs)
    for run, (accepted, worker, f) in enumerate(
        [
            (range(8), 5, 2),
            (range(1, 8), 4, 1),
            ([0, 1, 2, 3, 4, 6, 7], 0, 1),  # its own was rejected: the first stands in
            ([0, 1, 3, 4, 5, 6, 7], 4, 1),
        ]
    ):
        expected = MoNNA(f, worker).credits(runs[run, list(accepted)])
        torch.testing.assert_close(credits[run, list(accepted)], expected)
    view = ServerView(runs, torch.zeros(4, 5), 0.1, None)
    torch.testing.assert_close(MoNNA(2, worker=5).credits(view), credits)


def test_a_worker_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="worker must be an integer from 0 to 4, got 5"):
        MoNNA(worker=5)(LINE)
