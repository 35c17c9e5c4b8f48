"""Every rule against its reference, on ordinary and on hard inputs."""

import itertools
import time

import aggregation_reference as reference
import numpy as np
import pytest
import torch

from byzgym import aggregation
from byzgym.aggregation import brute_force

RTOL = {torch.float32: 1e-3, torch.float64: 1e-7}
SIZES = ((3, 0), (4, 0), (5, 1), (9, 3), (12, 4), (21, 7), (40, 12), (60, 28))

every_family = pytest.mark.parametrize("family", reference.FAMILIES)
both_types = pytest.mark.parametrize("dtype", list(RTOL), ids=str)
sizes = pytest.mark.parametrize(("n", "f"), SIZES)


def chosen(credits):
    """The indices of the rows with credit, which must be equal."""
    indices = credits.nonzero()[:, 0].tolist()
    torch.testing.assert_close(credits[indices], torch.full_like(credits[indices], 1 / len(indices)))
    return indices


@every_family
@both_types
@sizes
def test_krum_and_multi_krum(family, dtype, n, f):
    rows = reference.draw(family, n, 13, seed=n, dtype=dtype)
    scores = reference.krum_scores(rows, f)
    rule = aggregation.make("krum", num_byzantine=f)
    (best,) = chosen(rule.credits(rows))
    assert scores[best] <= scores.min() * (1 + RTOL[dtype])
    assert torch.equal(rule(rows), rows[best])

    for selected in (1, n - f, n):
        rule = aggregation.make("multi_krum", num_byzantine=f, num_selected=selected)
        picked = chosen(rule.credits(rows))
        assert len(picked) == selected
        # No row left out scores better than one picked.
        left = np.delete(scores, picked)
        assert selected == n or scores[picked].max() <= left.min() * (1 + RTOL[dtype])


@every_family
@both_types
@sizes
def test_coordinatewise(family, dtype, n, f):
    rows = reference.draw(family, n, 17, seed=n, dtype=dtype)
    values = np.abs(rows.double().numpy())
    rtol = 8 * torch.finfo(dtype).eps

    error = np.abs(
        aggregation.make("median", num_byzantine=f)(rows).double().numpy() - reference.median(rows)
    )
    assert (error <= rtol * values.max(0)).all()
    assert (error <= rtol * np.abs(reference.median(rows)) + 1e-45).all() or n % 2 == 0

    expected, largest_kept = reference.trimmed_mean(rows, f)
    error = np.abs(aggregation.make("trimmed_mean", num_byzantine=f)(rows).double().numpy() - expected)
    assert (error <= n * rtol * largest_kept).all()

    result = aggregation.make("mean_around_median", num_byzantine=f)(rows).double().numpy()
    assert reference.is_mean_around_median(rows, n - f, result, n * rtol)


@every_family
@both_types
@pytest.mark.parametrize(("n", "f"), [(3, 0), (4, 1), (7, 2), (11, 5)])
def test_medoid(family, dtype, n, f):
    rows = reference.draw(family, n, 5, seed=n, dtype=dtype)
    rule = aggregation.make("medoid", num_byzantine=f)
    (best,) = chosen(rule.credits(rows))
    assert torch.equal(rule(rows), rows[best])
    objectives = [reference.medoid_objective(rows, point) for point in rows.double().numpy()]
    assert objectives[best] <= min(objectives) * (1 + RTOL[dtype])


def test_medoid_beside_an_outlier_that_swallows_the_sums():
    # In double precision every sum of distances is 1e30; the row at 1e5 is still no medoid.
    rows = torch.tensor([[1e5, 0.0], [1.0, 0.0], [0.0, 0.1], [0.5, 0.2], [1e30, 0.0], [0.2, 0.0]])
    assert chosen(aggregation.make("medoid", num_byzantine=2).credits(rows))[0] in (1, 2, 3, 5)


@pytest.mark.parametrize(
    "family", ["gaussian", "ties", "equal_rows", "offset", "far_cluster", "zeros", "row_magnitudes"]
)
@both_types
@pytest.mark.parametrize(("n", "f"), [(3, 1), (4, 1), (7, 2), (20, 8)])
def test_geometric_median(family, dtype, n, f):
    rows = reference.draw(family, n, 4, seed=n, dtype=dtype)
    rule = aggregation.make("geometric_median", num_byzantine=f)
    result = rule(rows).double().numpy()
    expected = reference.geometric_median(rows)
    scale = np.median(np.sqrt(((rows.double().numpy() - expected) ** 2).sum(1)))
    rounding = torch.finfo(dtype).eps * np.abs(expected).max()
    assert np.linalg.norm(result - expected) <= 2e-3 * scale + 10 * rounding
    optimum = reference.medoid_objective(rows, expected)
    assert reference.medoid_objective(rows, result) <= optimum * (1 + 1e-5) + 10 * n * rounding


def test_geometric_median_at_a_data_point():
    # The middle of a cross, and the obtuse corner of a triangle with an angle above 120 degrees.
    cross = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -3.0]])
    triangle = torch.tensor([[-1.0, 0.1], [0.0, 0.0], [1.0, 0.1]])
    rule = aggregation.make("geometric_median", num_byzantine=1)
    for rows in (cross, triangle):
        assert chosen(rule.credits(rows)) == [1]


def test_geometric_median_leaves_a_data_point_that_is_not_optimal():
    # Weiszfeld's iteration from the mean lands exactly on the second row and would never leave it.
    rows = torch.tensor([[-2.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    rule = aggregation.make("geometric_median", tolerance=1e-10)
    expected = reference.geometric_median(rows)
    np.testing.assert_allclose(rule(rows).numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("family", ["gaussian", "equal_rows", "row_magnitudes", "offset", "far_cluster"])
@both_types
@pytest.mark.parametrize(("n", "f"), [(3, 1), (5, 2), (8, 3), (20, 6), (40, 17)])
def test_faba(family, dtype, n, f):
    rows = reference.draw(family, n, 6, seed=n, dtype=dtype)
    kept = chosen(aggregation.make("faba", num_byzantine=f).credits(rows))
    assert frozenset(kept) in reference.faba_outcomes(rows, f, 1e-4)


@pytest.mark.parametrize(("n", "f"), [(3, 1), (5, 2), (8, 3)])
def test_faba_with_ties(n, f):
    rows = reference.draw("ties", n, 2, seed=n)
    kept = chosen(aggregation.make("faba", num_byzantine=f).credits(rows))
    assert frozenset(kept) in reference.faba_outcomes(rows, f, 1e-9)


@pytest.mark.parametrize(
    ("family", "n", "f"),
    [
        (family, n, f)
        for family in ("gaussian", "row_magnitudes", "offset", "far_cluster", "ties")
        for n, f in ((3, 0), (7, 1), (8, 1), (11, 2), (15, 3))
        if n <= 11 or family not in ("ties", "far_cluster")  # which have too many right outcomes
    ],
)
@both_types
def test_bulyan(family, dtype, n, f):
    rows = reference.draw(family, n, 6, seed=n, dtype=dtype)
    result = aggregation.make("bulyan", num_byzantine=f)(rows).double().numpy()
    outcomes = reference.bulyan_selections(rows, f, 1e-5)
    rtol = 100 * torch.finfo(dtype).eps
    assert any(
        reference.is_mean_around_median(rows[sorted(picked)], n - 4 * f, result, rtol) for picked in outcomes
    )


@every_family
@both_types
@pytest.mark.parametrize(("n", "f"), [(3, 1), (5, 2), (6, 0), (9, 3), (13, 6)])
def test_brute_force(family, dtype, n, f):
    rows = reference.draw(family, n, 5, seed=n, dtype=dtype)
    kept = chosen(aggregation.make("brute_force", num_byzantine=f).credits(rows))
    assert len(kept) == n - f
    best = reference.smallest_diameter(rows, n - f)
    assert reference.diameter(rows, kept) <= best * (1 + RTOL[dtype])


@pytest.mark.parametrize(("n", "f"), [(30, 10), (40, 19), (60, 29)])
def test_brute_force_with_too_many_subsets_to_compare(n, f):
    # On a line, rows in order, the subset is one of f + 1 windows.
    line = reference.draw("gaussian", n, 1, seed=n, dtype=torch.float64)
    line[:f] = 3 + line[:f] / 2
    ordered = line[:, 0].sort().values
    best = (ordered[n - f - 1 :] - ordered[: f + 1]).min()
    kept = chosen(aggregation.make("brute_force", num_byzantine=f).credits(line))
    assert len(kept) == n - f
    torch.testing.assert_close(line[kept].max() - line[kept].min(), best)


def test_brute_force_is_fast_where_there_are_no_clusters():
    rows = reference.draw("gaussian", 40, 1000, seed=0)
    start = time.perf_counter()
    aggregation.make("brute_force", num_byzantine=15)(rows)
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("family", ["gaussian", "ties", "equal_rows"])
@pytest.mark.parametrize(("n", "f"), [(4, 1), (6, 2), (9, 4), (11, 3)])
def test_both_searches_of_brute_force_agree(monkeypatch, family, n, f):
    rows = torch.stack([reference.draw(family, n, 3, seed=seed, dtype=torch.float64) for seed in range(10)])
    rule = aggregation.make("brute_force", num_byzantine=f)
    compared = rule.credits(rows)
    monkeypatch.setattr(brute_force, "MOST_SUBSETS", 0)
    assert torch.equal(rule.credits(rows), compared)
    for run, credits in zip(rows, compared, strict=True):  # the lexicographically first of the best
        best = reference.smallest_diameter(run, n - f)
        subsets = itertools.combinations(range(n), n - f)
        first = next(s for s in subsets if reference.diameter(run, s) <= best * (1 + 1e-9))
        assert chosen(credits) == list(first)


@every_family
@both_types
@pytest.mark.parametrize("max_norm", [1e-20, 2.0, 1e25])
def test_norm_clipping(family, dtype, max_norm):
    rows = reference.draw(family, 11, 7, seed=3, dtype=dtype)
    exact = rows.double().numpy()
    norms = np.sqrt((exact**2).sum(1))
    factors = np.array([min(1.0, max_norm / norm) if norm else 1.0 for norm in norms])
    result = aggregation.make("norm_clipping", max_norm=max_norm)(rows).double().numpy()
    clipped = factors[:, None] * exact
    rtol = 10 * torch.finfo(dtype).eps
    assert (np.abs(result - clipped.mean(0)) <= rtol * np.abs(clipped).max(0) + 1e-44).all()


@every_family
@both_types
@pytest.mark.parametrize("n", [1, 3, 20, 60])
def test_mean(family, dtype, n):
    rows = reference.draw(family, n, 7, seed=n, dtype=dtype)
    exact = rows.double().numpy()
    error = np.abs(aggregation.make("mean")(rows).double().numpy() - exact.mean(0))
    assert (error <= 10 * torch.finfo(dtype).eps * np.abs(exact).max(0)).all()
