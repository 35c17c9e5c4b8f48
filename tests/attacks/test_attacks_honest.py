"""Moments of the honest rows: against double precision, and blind to what Byzantine rows hold."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from attack_cases import context_for, gradients_like, mask_of

from byzgym import attacks
from byzgym.attacks.honest import BLOCK, LONG_ROW, honest_mean, honest_moments, honest_sum

DIMENSIONS = [5, LONG_ROW + 3, BLOCK + 7]
MASKS = [[0, 3, 4], [1], []]
BLIND = ["gaussian", "uniform", "random", "zero", "omniscient", "ipm", "alie"]


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_against_double_precision(dimension):
    rows, mask = gradients_like(3, 6, dimension), mask_of(6, *MASKS)
    mean, std = honest_moments(rows, mask)
    torch.testing.assert_close(honest_mean(rows, mask), mean)
    for env in range(3):
        honest = rows[env, ~mask[env]].double()
        torch.testing.assert_close(honest_sum(rows, mask)[env].double(), honest.sum(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mean[env].double(), honest.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(std[env].double(), honest.std(0, correction=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-25, 1e25, 1e37])
@pytest.mark.parametrize("dimension", DIMENSIONS[:2])
def test_squares_neither_vanish_nor_overflow(dimension, size):
    rows, mask = gradients_like(3, 6, dimension).clamp(-9, 9) * size, mask_of(6, *MASKS)
    mean, std = honest_moments(rows, mask)
    for env in range(3):
        honest = rows[env, ~mask[env]].double() / size
        expected = honest.std(0, correction=0)
        torch.testing.assert_close(mean[env].double() / size, honest.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(std[env].double() / size, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dimension", DIMENSIONS[:2])
def test_a_spread_that_is_small_beside_the_mean_is_seen(dimension):
    noise = gradients_like(1, 6, dimension)
    noise[0, 1] *= 100  # the first honest row is far from the others
    rows, mask = 1000 + noise / 100, mask_of(6, [0, 3])
    mean, std = honest_moments(rows, mask)
    honest = rows[0, ~mask[0]].double()
    torch.testing.assert_close(mean[0].double(), honest.mean(0), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(std[0].double(), honest.std(0, correction=0), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("dimension", DIMENSIONS[:2])
def test_equal_rows_have_no_spread(dimension):
    rows, mask = gradients_like(1, 1, dimension).expand(1, 6, dimension).clone(), mask_of(6, [2])
    mean, std = honest_moments(rows, mask)
    torch.testing.assert_close(mean, rows[:, 0], rtol=1e-6, atol=0.0)
    torch.testing.assert_close(std, torch.zeros_like(std), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("dimension", DIMENSIONS[:2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_good_as_its_type(dtype, dimension):
    rows, mask = (gradients_like(1, 100, dimension) + 1).to(dtype), mask_of(100, [0])
    honest = rows[0, ~mask[0]].double()
    expected = honest.mean(0), honest.std(0, correction=0)
    for moment, value in zip(honest_moments(rows, mask), expected, strict=True):
        torch.testing.assert_close(moment, value[None].to(dtype), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(honest_mean(rows, mask), expected[0][None].to(dtype), rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_gives_the_same(dtype):
    mask = mask_of(6, [0, 3, 4], [1, 2, 5], range(6))
    for dimension in (LONG_ROW - 1, LONG_ROW, LONG_ROW + 3):
        rows = gradients_like(3, 6, dimension).to(dtype)
        given = rows.clone()
        compiled = honest_moments(rows, mask, compiled=True)
        torch.testing.assert_close(compiled, honest_moments(rows, mask))
        assert torch.equal(rows, given)


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("size", [1e-25, 1e25, 1e37])
def test_compiled_squares_neither_vanish_nor_overflow(size):
    rows, mask = gradients_like(2, 6, LONG_ROW).clamp(-9, 9) * size, mask_of(6, [0, 3, 4], [1, 2, 5])
    compiled, expected = honest_moments(rows, mask, compiled=True), honest_moments(rows, mask)
    for moment, value in zip(compiled, expected, strict=True):
        torch.testing.assert_close(moment / size, value / size)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dimension", DIMENSIONS[:2])
def test_gradients_that_require_grad(dimension):
    rows, mask = gradients_like(1, 6, dimension), mask_of(6, [2])
    for moment, value in zip(
        honest_moments(rows.clone().requires_grad_(), mask), honest_moments(rows, mask), strict=True
    ):
        assert torch.equal(moment, value)


@pytest.mark.parametrize("dimension", DIMENSIONS[:2])
def test_nobody_honest_gives_zero(dimension):
    rows, mask = gradients_like(1, 3, dimension), mask_of(3, [0, 1, 2])
    assert not honest_mean(rows, mask).any()
    for moment in honest_moments(rows, mask):
        assert not moment.any()


@pytest.mark.parametrize("dimension", DIMENSIONS[:2])
@pytest.mark.parametrize("name", BLIND)
def test_attacks_that_do_not_read_their_own_gradients_are_right_whatever_these_hold(name, dimension):
    rows, mask = gradients_like(3, 6, dimension), mask_of(6, *MASKS)
    attack = attacks.make(name)
    assert not attack.reads_own
    expected = attack(rows, mask, context_for(rows))
    for leftover in (torch.nan, torch.inf, -1e38):
        spoiled = rows.masked_fill(mask[..., None], leftover)
        submitted = attack(spoiled, mask, context_for(rows))
        torch.testing.assert_close(submitted[mask], expected[mask], rtol=1e-6, atol=1e-7)


def test_the_other_attacks_read_their_own_gradients():
    assert {name for name in attacks.names() if not attacks.make(name).reads_own} == set(BLIND)


def test_a_subclass_that_corrupts_otherwise_does_not_inherit_the_promise():
    class Peeking(attacks.InnerProductManipulation):
        def corrupt(self, gradients, byzantine, context):
            return -gradients

    class Promising(Peeking):
        reads_own: ClassVar[bool] = False

    class Renamed(attacks.InnerProductManipulation):
        """Changes nothing that matters."""

    assert Peeking.reads_own
    assert not Promising.reads_own
    assert not Renamed.reads_own


def test_a_mixin_does_not_inherit_the_promise_of_its_neighbour():
    class Mixin:
        def corrupt(self, gradients, byzantine, context):
            return -gradients

    class Mixed(Mixin, attacks.Zero):
        pass

    class Promised(attacks.Zero, Mixin):
        pass

    assert Mixed.reads_own
    assert not Promised.reads_own
