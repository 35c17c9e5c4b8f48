"""Centered clipping: by hand, against a slow reference, and how far it can be pulled."""

import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import every_family
from hypothesis import given, settings
from hypothesis import strategies as st
from server_views import normal, view_of

from byzgym.aggregation import make
from byzgym.memory import Memory


def slow_step(center, rows, radius):
    total = 0 * center
    for row in rows:
        away = row - center
        distance = np.sqrt((away**2).sum())
        total = total + (away * radius / distance if distance > radius else away)
    return center + total / len(rows)


@every_family
@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize(("radius", "steps"), [(10.0, 1), (0.5, 1), (2.0, 3), (1e-20, 1), (1e25, 2)])
def test_against_reference(family, n, radius, steps):
    memory, rule = Memory(2), make("centered_clipping", radius=radius, steps=steps)
    centers = np.zeros((2, 6))
    for number in range(4):
        runs = torch.stack([reference.draw(family, n, 6, 9 * number + e, torch.float64) for e in range(2)])
        update = rule.aggregate(view_of(runs, memory=memory))
        for env in range(2):
            before = np.abs(centers[env]).max()
            for _ in range(steps):
                centers[env] = slow_step(centers[env], runs[env].numpy(), radius)
            scale = max(before, np.abs(centers[env]).max())
            np.testing.assert_allclose(update[env], centers[env], atol=1e-9 * scale)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12), exponent=st.integers(0, 30))
def test_nobody_can_pull_farther_than_the_radius_divided_by_n(seed, n, exponent):
    rows = normal(1, n, 6, seed=seed, dtype=torch.float32)
    moved = rows.clone()
    moved[:, 0] *= 10.0**exponent
    one, other = (
        make("centered_clipping", radius=2.0).aggregate(view_of(part, memory=Memory(1)))
        for part in (rows, moved)
    )
    assert (one - other).norm() <= 2 * 2.0 / n * (1 + 1e-5)


def test_where_all_are_rejected_the_last_aggregate_stays():
    memory, rule = Memory(1), make("centered_clipping")
    gradients = torch.tensor([[[4.0], [torch.nan]]])
    assert rule.aggregate(view_of(gradients, memory=memory)).tolist() == [[4]]
    assert rule.aggregate(view_of(gradients * torch.nan, memory=memory)).tolist() == [[4]]


def test_half_precision_remembers_small_steps():
    memory, rule = Memory(1), make("centered_clipping", radius=1e-4)
    gradients = torch.full((1, 2, 1), 2.0, dtype=torch.float16)
    for _ in range(100):
        update = rule.aggregate(view_of(gradients, memory=memory))
    assert update.dtype == torch.float16
    assert float(update) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"radius": 0.0}, "radius must be a finite number greater than 0"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
    ],
)
def test_parameters_are_checked(parameters, problem):
    with pytest.raises(ValueError, match=problem):
        make("centered_clipping", **parameters)
