import itertools

import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import LINE, RTOL, both_types, chosen

from byzgym.aggregation import SMEA, smea

FAMILIES = [f for f in reference.FAMILIES if f != "entry_magnitudes"]


def largest_eigenvalue(rows, subset):
    """Of the covariance matrix of some rows."""
    part = rows.double().numpy()[list(subset)]
    size = np.abs(part - part[0]).max() or 1.0
    centred = (part - part[0]) / size  # the first row takes the offset away, the size the magnitude
    return np.linalg.eigvalsh(np.cov(centred.T, bias=True))[-1] * size**2


def test_on_a_line():
    # The variance of 0, 1, 2 is 2/3; that of 0, 1, 2, 4 is 2.1875.
    assert SMEA(2)(LINE) == 1
    assert SMEA(1)(LINE) == 7 / 4


def test_the_widest_direction_counts_and_not_the_sum():
    # A triangle with sides of 1 has variance 1/6 in every direction, the three points in a line that meet it
    # 0.24 in one. In all directions together, the triangle varies more.
    corner = torch.tensor([0.5, 0.75**0.5])
    triangle = [torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]), corner]
    rows = torch.stack([*triangle, corner + torch.tensor([0.0, 0.6]), corner + torch.tensor([0.0, 1.2])])
    assert largest_eigenvalue(rows, (0, 1, 2)) == pytest.approx(1 / 6)
    assert largest_eigenvalue(rows, (2, 3, 4)) == pytest.approx(0.24)
    assert chosen(SMEA(2).credits(rows)) == [0, 1, 2]


@pytest.mark.parametrize("family", FAMILIES)
@both_types
@pytest.mark.parametrize(("n", "f"), [(1, 0), (2, 0), (3, 1), (5, 2), (6, 0), (9, 3), (11, 5)])
def test_against_reference(family, dtype, n, f):
    rows = reference.draw(family, n, 5, seed=n, dtype=dtype)
    kept = chosen(SMEA(f).credits(rows))
    assert len(kept) == n - f
    best = min(largest_eigenvalue(rows, subset) for subset in itertools.combinations(range(n), n - f))
    assert largest_eigenvalue(rows, kept) <= best * (1 + RTOL[dtype])


def test_chunks_and_searches_do_not_matter(monkeypatch):
    rows = torch.stack([reference.draw("gaussian", 9, 3, seed=seed) for seed in range(8)])
    expected = SMEA(4).credits(rows)
    monkeypatch.setattr(smea, "SCRATCH", 1)
    assert torch.equal(SMEA(4).credits(rows), expected)
    monkeypatch.setattr(smea, "AT_ONCE", 0)
    assert torch.equal(SMEA(4).credits(rows), expected)


def test_too_many_subsets_are_refused():
    assert [SMEA.max_byzantine(n) for n in (3, 24, 30, 50, 100)] == [1, 11, 8, 5, 4]
    with pytest.raises(ValueError, match=r"C\(n, f\) <= 10,000,000, got n=50 and num_byzantine=20; .* 5$"):
        SMEA(20)(torch.ones(50, 2))


def test_far_submissions_are_ruled_out_soon():
    rows = reference.draw("gaussian", 30, 20, seed=0)
    rows[:8] += 1e3 * reference.draw("gaussian", 8, 20, seed=1)
    assert chosen(SMEA(8).credits(rows)) == list(range(8, 30))
