import itertools

import aggregation_reference as reference
import pytest
import torch
from aggregation_reference import LINE, RTOL, both_types, chosen, every_family

from byzgym.aggregation import BruteForce, brute_force


def test_on_a_line():
    assert BruteForce(1)(LINE) == 7 / 4
    assert BruteForce(2)(LINE) == 1


@every_family
@both_types
@pytest.mark.parametrize(("n", "f"), [(3, 1), (5, 2), (6, 0), (9, 3), (13, 6)])
def test_against_reference(family, dtype, n, f):
    rows = reference.draw(family, n, 5, seed=n, dtype=dtype)
    kept = chosen(BruteForce(f).credits(rows))
    assert len(kept) == n - f
    best = reference.smallest_diameter(rows, n - f)
    assert reference.diameter(rows, kept) <= best * (1 + RTOL[dtype])


@pytest.mark.parametrize(("n", "f"), [(30, 10), (40, 19), (60, 29)])
def test_too_many_subsets_to_compare(n, f):
    # On a line, rows in order, the subset is one of f + 1 windows.
    line = reference.draw("gaussian", n, 1, seed=n, dtype=torch.float64)
    line[:f] = 3 + line[:f] / 2
    ordered = line[:, 0].sort().values
    best = (ordered[n - f - 1 :] - ordered[: f + 1]).min()
    kept = chosen(BruteForce(f).credits(line))
    assert len(kept) == n - f
    torch.testing.assert_close(line[kept].max() - line[kept].min(), best)


def test_many_rows_without_clusters_end_soon():
    # In days, if subsets were compared.
    rows = reference.draw("gaussian", 60, 1000, seed=0)
    assert len(chosen(BruteForce(29).credits(rows))) == 31


@pytest.mark.parametrize("family", ["gaussian", "ties", "equal_rows"])
@pytest.mark.parametrize(("n", "f"), [(4, 1), (6, 2), (9, 4), (11, 3)])
def test_both_searches_agree(monkeypatch, family, n, f):
    rows = torch.stack([reference.draw(family, n, 3, seed=seed, dtype=torch.float64) for seed in range(10)])
    compared = BruteForce(f).credits(rows)
    monkeypatch.setattr(brute_force, "MOST_SUBSETS", 0)
    assert torch.equal(BruteForce(f).credits(rows), compared)
    for run, credits in zip(rows, compared, strict=True):  # the lexicographically first of the best
        best = reference.smallest_diameter(run, n - f)
        subsets = itertools.combinations(range(n), n - f)
        first = next(s for s in subsets if reference.diameter(run, s) <= best * (1 + 1e-9))
        assert chosen(credits) == list(first)
