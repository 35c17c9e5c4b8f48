import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import LINE, chosen
from hypothesis import given, settings
from hypothesis import strategies as st

from byzgym.aggregation import AutoGM, GeometricMedian
from byzgym.aggregation.auto_gm import choose_shares


def project(lengths, strength):
    """The shares by bisection on eta."""
    low, high = lengths.min(), lengths.min() + strength
    for _ in range(200):
        eta = (low + high) / 2
        low, high = (low, eta) if np.maximum(eta - lengths, 0).sum() > strength else (eta, high)
    return np.maximum(high - lengths, 0) / strength


def alternate(rows, strength, rounds=300):
    """The two steps in turn, on the vectors themselves, from the geometric median; the objective."""
    rows = rows.double().numpy()
    point = reference.geometric_median(rows)
    for _ in range(rounds):
        shares = project(np.linalg.norm(rows - point, axis=1), strength)
        for _ in range(300):
            weights = shares / np.maximum(np.linalg.norm(rows - point, axis=1), 1e-6)
            point = weights @ rows / weights.sum()
    return objective(rows, point, strength)


def objective(rows, point, strength):
    lengths = np.linalg.norm(rows - point, axis=1)
    shares = project(lengths, strength)
    return shares @ lengths + strength / 2 * (shares**2).sum()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(1e-3, 1e6))
def test_shares_against_bisection(lengths, strength):
    shares = choose_shares(torch.tensor([lengths], dtype=torch.float64), strength)[0]
    np.testing.assert_allclose(shares, project(np.array(lengths), strength), atol=1e-6)
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(), torch.tensor(1.0, dtype=torch.float64))


def test_on_a_line():
    # About the median 2 the distances are 2, 1, 0, 2, 98: with lambda = 1.5, eta = 1.25 for 1 and 2, whose
    # shares are 1/6 and 5/6. The weighted median is still 2.
    credits = torch.tensor([0.0, 2e-7, 1.0, 0.0, 0.0])  # 1/6 over 1 beside 5/6 over 1e-6
    torch.testing.assert_close(AutoGM(regularization=1.5).credits(LINE), credits, rtol=1e-3, atol=0)
    torch.testing.assert_close(AutoGM(2, regularization=1.5)(LINE), torch.tensor([2.0]))


def test_the_regularization_goes_from_one_submission_to_the_geometric_median():
    rows = reference.draw("gaussian", 9, 4, seed=3, dtype=torch.float64)
    rows[:2] += 50
    median = GeometricMedian(tolerance=1e-10)(rows)
    torch.testing.assert_close(AutoGM(regularization=1e9)(rows), median, rtol=0, atol=1e-4)
    nearest = int((rows - median).norm(dim=1).argmin())
    assert chosen(AutoGM(regularization=1e-3).credits(rows)) == [nearest]
    assert not AutoGM(regularization=30).credits(rows)[:2].any()


@pytest.mark.parametrize("family", ["gaussian", "ties", "offset", "zeros"])
@pytest.mark.parametrize(("n", "strength"), [(3, 3), (7, 2.0), (7, 20.0), (12, 12)])
def test_the_objective_against_reference(family, n, strength):
    rows = reference.draw(family, n, 5, seed=n, dtype=torch.float64)
    result = AutoGM(regularization=strength, tolerance=1e-14, max_iterations=1000)(rows).numpy()
    assert objective(rows.numpy(), result, strength) <= alternate(rows, strength) * (1 + 1e-5)


def test_n_is_the_default():
    rows = reference.draw("gaussian", 9, 4, seed=1)
    assert torch.equal(AutoGM()(rows), AutoGM(regularization=9)(rows))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_sizes(size):
    rows = size * reference.draw("gaussian", 9, 4, seed=1)
    credits = AutoGM(4).credits(rows)
    assert credits.isfinite().all()
    expected = torch.full((9,), 1 / 9)
    if size == 1e30:  # lambda is nothing beside the distances
        assert len(chosen(credits)) == 1
    else:
        torch.testing.assert_close(credits, expected)


@pytest.mark.parametrize(
    "wrong",
    [{"regularization": 0}, {"smoothing": 0}, {"tolerance": -1}, {"max_iterations": 0}],
    ids=str,
)
def test_bad_parameters_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AutoGM(**wrong)
