"""Moments of the honest rows: against double precision, and blind to what Byzantine rows hold."""

from __future__ import annotations

import pytest
import torch

from byzgym.numerics.moments import LONG_ROW, honest_mean, honest_moments, honest_sum

MASKS = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)

# The two ways in which they are computed.
pytestmark = pytest.mark.parametrize("dimension", [5, LONG_ROW + 3])


def normal(num_envs, num_workers, dimension):
    return torch.randn(num_envs, num_workers, dimension, generator=torch.Generator().manual_seed(0))


def check(rows, byzantine, size=1.0, **tolerance):
    """Against double precision, after division by a size."""
    found = honest_sum(rows, byzantine), honest_mean(rows, byzantine), *honest_moments(rows, byzantine)
    assert torch.equal(found[1], found[2]) or size > 1e20  # where it was computed in double precision
    for env, mask in enumerate(byzantine):
        honest = rows[env, ~mask].double() / size
        mean, std = honest.mean(0), honest.std(0, correction=0)
        for value, expected in zip(found, (honest.sum(0), mean, mean, std), strict=True):
            torch.testing.assert_close(value[env].double() / size, expected, **tolerance)


def test_against_double_precision(dimension):
    check(normal(3, 6, dimension), MASKS, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1e-25, 1e25, 1e37])
def test_squares_neither_vanish_nor_overflow(dimension, size):
    check(normal(3, 6, dimension).clamp(-5, 5) * size, MASKS, size, rtol=1e-4, atol=1e-5)


def test_an_overflow_stays_in_its_environment(dimension):
    rows = normal(3, 6, dimension)
    alone = honest_moments(rows[:1], MASKS[:1])
    rows[1] *= 1e25
    for moment, expected in zip(honest_moments(rows, MASKS), alone, strict=True):
        assert torch.equal(moment[:1], expected)


def test_a_spread_that_is_small_beside_the_mean(dimension):
    noise = normal(1, 6, dimension)
    noise[0, 1] *= 100  # the first honest row is far from the others
    check(1000 + noise / 100, MASKS[:1], rtol=1e-2, atol=1e-3)


def test_half_precision_whose_sum_overflows(dimension):
    rows = torch.full((1, 6, dimension), 40_000, dtype=torch.float16)
    mean, (again, std) = honest_mean(rows, MASKS[:1]), honest_moments(rows, MASKS[:1])
    for value, expected in ((mean, 40_000), (again, 40_000), (std, 0)):
        assert value.dtype == torch.float16
        assert value.unique().tolist() == [expected]


@pytest.mark.parametrize("leftover", [torch.nan, torch.inf, -1e38])
def test_byzantine_rows_do_not_matter(dimension, leftover):
    rows = normal(3, 6, dimension)
    spoiled = rows.masked_fill(MASKS[..., None], leftover)
    assert torch.equal(honest_sum(spoiled, MASKS), honest_sum(rows, MASKS))
    for moment, expected in zip(honest_moments(spoiled, MASKS), honest_moments(rows, MASKS), strict=True):
        assert torch.equal(moment, expected)


@pytest.mark.filterwarnings("error")
def test_results_are_detached(dimension):
    rows = normal(1, 6, dimension).requires_grad_()
    assert not any(moment.requires_grad for moment in honest_moments(rows, MASKS[:1]))


def test_nobody_honest_gives_zero(dimension):
    rows, mask = normal(1, 3, dimension), torch.ones(1, 3, dtype=torch.bool)
    assert not any(value.any() for value in (honest_sum(rows, mask), *honest_moments(rows, mask)))
