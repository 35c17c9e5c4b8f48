"""Zeno and Zeno++: by hand, and against slow references."""

import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import every_family
from hypothesis import given, settings
from hypothesis import strategies as st
from server_views import RATE, normal, slow_loss, view_of

from byzgym.aggregation import ServerView, make


def slow_scores(rows, target, rho):
    before = slow_loss(0 * rows[0], target)
    return np.array([before - slow_loss(row, target) - rho * (row**2).sum() for row in rows])


@every_family
@pytest.mark.parametrize(("n", "f"), [(1, 0), (2, 1), (3, 1), (9, 4), (12, 11)])
@pytest.mark.parametrize("rho", [None, 0.0, 0.3])
def test_zeno_against_reference(family, n, f, rho):
    runs = torch.stack([reference.draw(family, n, 7, seed, torch.float64) for seed in range(3)])
    target = normal(3, 7, seed=9)
    credits = make("zeno", num_byzantine=f, rho=rho).credits(view_of(runs, target))
    for rows, aim, given_ in zip(runs.numpy(), target.numpy(), credits, strict=True):
        scores = slow_scores(rows, aim, RATE / 200 if rho is None else rho)
        kept = reference.chosen(given_)
        assert len(kept) == n - f
        worst, left = scores[kept].min(), np.delete(scores, kept)
        assert (left <= worst + 1e-9 * np.abs(scores).max()).all()


def test_zeno_of_equal_scores_keeps_the_first():
    gradients = torch.ones(1, 5, 3)
    assert make("zeno", num_byzantine=2).credits(view_of(gradients, -torch.ones(1, 3))).tolist() == [
        pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])
    ]


def test_zeno_counts_rejected_submissions_among_the_byzantine_ones():
    gradients = torch.tensor([[4.0, 3.0, torch.nan, 2.0, -1.0]])[..., None]
    target = torch.tensor([[-9.0]])
    for f, kept in [(0, [0, 1, 3, 4]), (1, [0, 1, 3, 4]), (2, [0, 1, 3]), (4, [0])]:
        assert reference.chosen(make("zeno", num_byzantine=f).credits(view_of(gradients, target))[0]) == kept
    nobody = make("zeno", num_byzantine=1).decide(view_of(gradients * torch.nan, target))
    assert not nobody.update.any()


def test_zeno_prefers_short_submissions_where_rho_is_large():
    gradients = torch.tensor([[[0.1], [5.0]]])
    for rho, best in [(0.0, 1), (10.0, 0)]:
        rule = make("zeno", num_byzantine=1, rho=rho)
        assert rule.credits(view_of(gradients, torch.tensor([[-1.0]])))[0, best] == 1


def slow_zeno_plus(rows, server, rate, rho, epsilon):
    passed = []
    for row in rows:
        norm = np.sqrt((row**2).sum())
        matched = row * np.sqrt((server**2).sum()) / norm if norm else row
        if rate * matched @ server - rho * (matched**2).sum() >= -rate * epsilon:
            passed.append(matched)
    return np.mean(passed, 0) if passed else 0 * server


@every_family
@pytest.mark.parametrize("n", [1, 2, 3, 11])
@pytest.mark.parametrize(("rho", "epsilon"), [(0.001, 0.0), (0.0, 0.0), (0.03, 0.2)])
def test_zeno_plus_against_reference(family, n, rho, epsilon):
    runs = torch.stack([reference.draw(family, n, 7, seed, torch.float64) for seed in range(3)])
    server = normal(3, 7, seed=9)
    update = make("zeno_plus", rho=rho, epsilon=epsilon).aggregate(view_of(runs, -server))
    for rows, own, result in zip(runs.numpy(), server.numpy(), update.numpy(), strict=True):
        np.testing.assert_allclose(result, slow_zeno_plus(rows, own, RATE, rho, epsilon), atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponents=st.lists(st.integers(-30, 30), min_size=6, max_size=6))
def test_zeno_plus_ignores_lengths_and_never_exceeds_the_server(seed, exponents):
    rows, server = normal(1, 6, 8, seed=seed, dtype=torch.float32), normal(1, 8, seed=seed + 1).float()
    scaled = rows * torch.tensor([10.0**exponent for exponent in exponents])[:, None]
    update, other = (make("zeno_plus").aggregate(view_of(part, -server)) for part in (rows, scaled))
    torch.testing.assert_close(update, other, rtol=1e-3, atol=1e-5)
    assert other.norm() <= server.norm() * (1 + 1e-5)


@pytest.mark.parametrize(
    ("name", "parameters", "problem"),
    [
        ("zeno", {"rho": -1.0}, "rho must be a finite number of at least 0"),
        ("zeno_plus", {"rho": torch.nan}, "rho must be a finite number of at least 0"),
        ("zeno_plus", {"epsilon": -0.1}, "epsilon must be a finite number of at least 0"),
    ],
)
def test_parameters_are_checked(name, parameters, problem):
    with pytest.raises(ValueError, match=problem):
        make(name, num_byzantine=0, **parameters)


def test_zeno_needs_more_workers_than_byzantine_ones():
    with pytest.raises(ValueError, match="Zeno needs n >= f"):
        make("zeno", num_byzantine=3).decide(ServerView(torch.ones(1, 3, 1), torch.zeros(1, 1), 0.1, None))
