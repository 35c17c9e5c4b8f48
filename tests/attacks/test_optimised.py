"""Min-Max and Min-Sum against values computed by hand and against a slow bisection."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attack_cases import context_for, gradients_like, mask_of
from hypothesis import given, settings
from hypothesis import strategies as st

from byzgym import attacks

NAMES = ["min_max", "min_sum"]
PERTURBATIONS = ["std", "unit", "sign"]
# Mean (5, 0); standard deviation sqrt(1/2) in both coordinates; diameter 2; the last one is Byzantine.
CROSS = torch.tensor([[[6.0, 0.0], [4.0, 0.0], [5.0, 1.0], [5.0, -1.0], [9.0, 9.0]]])
CROSS_MASK = mask_of(5, [4])
# The farthest row is (6, 0): ||(1, 0) + t (1, 1) / sqrt(2)||^2 = 4 has the root t = (sqrt(14) - sqrt(2)) / 2.
MIN_MAX_STEP = (7**0.5 - 1) / 2


def common(name, gradients, mask, **parameters):
    """The common submission of the Byzantine workers, shape [E, d]."""
    return attacks.make(name, **parameters).corrupt(gradients, mask, context_for(gradients))[:, 0]


@pytest.mark.parametrize(
    ("name", "perturbation", "expected"),
    [
        ("min_max", "unit", [4.0, 0.0]),  # 2 away from (6, 0)
        ("min_max", "sign", [4.0, 0.0]),
        ("min_max", "std", [5 - MIN_MAX_STEP, -MIN_MAX_STEP]),
        ("min_sum", "unit", [4.0, 0.0]),  # 1 away from the mean
        ("min_sum", "sign", [4.0, 0.0]),
        ("min_sum", "std", [5 - 0.5**0.5, -(0.5**0.5)]),
    ],
)
def test_hand_computed_values(name, perturbation, expected):
    submitted = common(name, CROSS, CROSS_MASK, perturbation=perturbation)
    np.testing.assert_allclose(submitted[0], expected, rtol=1e-6, atol=1e-6)


def slow(name, rows, perturbation):
    """By the definition, with a bisection for gamma, in double precision."""
    mean = rows.mean(0)
    p = {
        "std": -rows.std(0, ddof=1 if len(rows) > 1 else 0),
        "unit": -mean / np.linalg.norm(mean),
        "sign": -np.sign(mean),
    }[perturbation]
    squared = [[((a - b) ** 2).sum() for b in rows] for a in rows]
    limit = max(max(row) for row in squared) if name == "min_max" else max(sum(row) for row in squared)
    measure = max if name == "min_max" else sum

    def fits(gamma):
        return measure([((mean + gamma * p - row) ** 2).sum() for row in rows]) <= limit

    low, high = 0.0, 1.0
    while fits(high):
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return mean + low * p


@pytest.mark.parametrize("perturbation", PERTURBATIONS)
@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10**6), num_honest=st.integers(2, 7), dimension=st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_against_bisection(name, perturbation, seed, num_honest, dimension):
    gradients = gradients_like(2, 8, dimension, seed) + gradients_like(2, 1, dimension, seed + 1)
    mask = mask_of(8, list(range(num_honest, 8)), list(range(8 - num_honest)))
    submitted = common(name, gradients, mask, perturbation=perturbation)
    for env in range(2):
        rows = gradients[env].double().numpy()[~mask[env].numpy()]
        expected = slow(name, rows, perturbation)
        np.testing.assert_allclose(submitted[env], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("perturbation", PERTURBATIONS)
@pytest.mark.parametrize("size", [1e-25, 1, 1e25])
def test_the_bound_is_reached_and_not_passed(perturbation, size):
    gradients = gradients_like(3, 9, 500) * size + size
    mask = mask_of(9, [0], [1, 2, 3, 4], [2, 3, 4, 5, 6, 7])
    for env in range(3):
        honest = gradients[env, ~mask[env]].double()
        pairs = torch.cdist(honest, honest, compute_mode="donot_use_mm_for_euclid_dist")
        by_name = {n: common(n, gradients, mask, perturbation=perturbation)[env].double() for n in NAMES}
        away = {n: (honest - submitted).norm(dim=1) for n, submitted in by_name.items()}
        assert away["min_max"].max().item() == pytest.approx(pairs.max().item(), rel=1e-5)
        largest = pairs.square().sum(1).max().item()
        assert away["min_sum"].square().sum().item() == pytest.approx(largest, rel=1e-5)
        nearer = common("min_sum", gradients, mask, perturbation=perturbation, bound="smallest")[env].double()
        smallest = pairs.square().sum(1).min().item()
        assert (honest - nearer).norm(dim=1).square().sum().item() == pytest.approx(smallest, rel=1e-5)


@pytest.mark.parametrize("perturbation", PERTURBATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_without_a_spread_the_mean_is_submitted(name, perturbation):
    gradients = gradients_like(4, 5, 30)
    gradients[1, [0, 3]] = gradients[1, 4].clone()  # equal honest rows
    gradients[2] = 0
    gradients[3, 1:] = torch.nan  # of Byzantine workers
    mask = mask_of(5, [0, 1, 2, 3], [1, 2], [1, 2], [1, 2, 3, 4])
    submitted = common(name, gradients, mask, perturbation=perturbation)
    expected = torch.stack([gradients[0, 4], gradients[1, 4], gradients[2, 4], gradients[3, 0]])
    torch.testing.assert_close(submitted, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name):
    gradients, mask = gradients_like(2, 6, 50).half(), mask_of(6, [0], [1, 2])
    submitted = attacks.make(name)(gradients, mask, context_for(gradients))
    expected = common(name, gradients.float(), mask)
    assert submitted.dtype == torch.float16
    torch.testing.assert_close(submitted[0, 0], expected[0].half(), rtol=2e-3, atol=2e-3)
