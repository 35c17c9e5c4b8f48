import aggregation_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import MeanShift, estimate_bandwidth

from byzgym.aggregation import SignGuard


def guard(rows, lower=0.1, upper=3.0):
    """Every result that is right, with all coordinates drawn: clusters of equal size are a free choice."""
    rows = rows.double().numpy()
    norms = np.linalg.norm(rows, axis=1)
    middle = np.median(norms)
    usual = {i for i, norm in enumerate(norms) if lower * middle <= norm <= upper * middle}
    shares = np.array([[(row > 0).mean(), (row == 0).mean(), (row < 0).mean()] for row in rows])
    bandwidth = estimate_bandwidth(shares, quantile=0.5) * (1 + 1e-9)  # shares are counts, so distances tie
    labels = MeanShift(bandwidth=bandwidth, cluster_all=False).fit(shares).labels_
    sizes = np.bincount(labels[labels >= 0])
    results = []
    for label in np.flatnonzero(sizes == sizes.max()):
        kept = sorted(usual & set(np.flatnonzero(labels == label)) or usual)
        results.append(np.mean([rows[i] * min(1, middle / norms[i]) for i in kept], axis=0))
    return results


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(5, 20), f=st.integers(0, 4))
def test_against_reference(seed, n, f):
    rows = reference.draw("gaussian", n, 300, seed=seed, dtype=torch.float64) + 0.3
    rows[:f] *= torch.tensor([-1.0, 20.0, 0.01, -2.0], dtype=torch.float64)[:f, None]
    result = SignGuard(portion=1.0)(rows).numpy()
    assert any(np.allclose(result, expected, rtol=1e-6, atol=1e-9) for expected in guard(rows))


def test_norms_and_signs():
    alike = [[3.0, 4.0], [4.0, 3.0], [8.0, 6.0], [5.0, 0.1]]
    rows = torch.tensor([*alike, [-4.0, -3.0], [60.0, 80.0], [0.03, 0.04]])
    # The median norm is about 5; the fifth has other signs, the last two have other norms.
    expected = (rows[0] + rows[1] + rows[2] / 2 + rows[3]) / 4
    torch.testing.assert_close(SignGuard(3, portion=1.0)(rows), expected, rtol=1e-3, atol=0)


def test_usual_norms_are_left_where_clusters_leave_none():
    # Three short ones have positive signs only, and three of the usual ones mixed signs. Of equally large
    # clusters, the one with more positive signs is taken.
    short = torch.tensor([[0.01, 0.01], [0.01, 0.02], [0.02, 0.01]])
    usual = torch.tensor([[-5.0, -5.0], [-5.0, 5.0], [5.0, -5.0], [-7.0, 7.0]])
    expected = (usual[0] + usual[1] + usual[2] + usual[3] * 5 / 7) / 4
    torch.testing.assert_close(SignGuard(3, portion=1.0)(torch.cat([short, usual])), expected)


def test_a_part_of_the_coordinates_is_seen():
    # Signs are wrong in the first half of the coordinates only, which few draws of one coordinate meet.
    rows = torch.ones(7, 1000, dtype=torch.float64)
    rows += 0.01 * reference.draw("gaussian", 7, 1000, seed=0, dtype=torch.float64)
    rows[0, :500] *= -1
    kept = [bool((SignGuard(3, portion=0.001, seed=seed)(rows)[0] > 0.9).item()) for seed in range(20)]
    assert 3 <= sum(kept) <= 17
    assert SignGuard(3)(rows)[0] > 0.9  # a tenth of them is enough


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_equal_rows(value):
    rows = torch.full((6, 30), value)
    torch.testing.assert_close(SignGuard(2)(rows), rows[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("wrong", [{"lower": 2}, {"upper": 1.5}, {"portion": 0}, {"portion": 1.1}], ids=str)
def test_bad_parameters_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SignGuard(**wrong)
