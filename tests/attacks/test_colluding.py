"""Omniscient, IPM, ALIE and sybils against hand-computed values and slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attack_cases import context_for, gradients_like, mask_of
from scipy.stats import norm

from byzgym import attacks

NAMES = ["ipm", "omniscient", "alie"]
SMALL = torch.tensor([[[1.0, -2.0], [3.0, 4.0], [5.0, 0.0], [100.0, 100.0]]])
SMALL_MASK = mask_of(4, [3])


def common(name, gradients, mask, **parameters):
    """The common submission of the Byzantine workers, shape [E, 1, d]."""
    return attacks.make(name, **parameters).corrupt(gradients, mask, context_for(gradients))


def honest_rows(gradients, mask, env):
    return gradients[env].double().numpy()[~mask[env].numpy()]


def test_hand_computed_values():
    assert common("ipm", SMALL, SMALL_MASK).tolist() == pytest.approx(np.array([[[-1.5, -1 / 3]]]))
    assert common("ipm", SMALL, SMALL_MASK, epsilon=2).tolist() == pytest.approx(np.array([[[-6.0, -4 / 3]]]))
    expected = np.array([[[-9e20, -2e20]]])
    assert common("omniscient", SMALL, SMALL_MASK).tolist() == pytest.approx(expected, rel=1e-6)
    # Mean (3, 2/3); population variance (8/3, 56/9).
    expected = np.array([[[3 - 1.633 * 2, 0.66667 - 2.49444 * 2]]])
    assert common("alie", SMALL, SMALL_MASK, z=2).tolist() == pytest.approx(expected, rel=1e-4)


def test_against_numpy():
    gradients = gradients_like(4, 20, 50)
    mask = mask_of(20, [0, 5, 7, 8, 11, 19], list(range(8)), [], list(range(19)))
    ipm, omniscient, alie = (common(name, gradients, mask)[:, 0].numpy() for name in NAMES)
    for env, z in enumerate((0.366, 0.674, norm.ppf(9 / 20), 1.5)):
        rows = honest_rows(gradients, mask, env)
        np.testing.assert_allclose(ipm[env], -0.5 * rows.mean(0), atol=1e-6)
        np.testing.assert_allclose(omniscient[env], -1e20 * rows.sum(0), atol=1e15)
        np.testing.assert_allclose(alie[env], rows.mean(0) - z * rows.std(0), atol=2e-3)


def test_the_published_values_of_z():
    z = attacks.ALittleIsEnough().effective_z
    small = [z(10, m) for m in range(1, 6)]
    assert small == pytest.approx([-0.140, 0, 0.180, 0.431, 0.842], abs=5e-4)
    large = [z(20, 6), z(20, 8), z(50, 10), z(50, 24)]
    assert large == pytest.approx([0.366, 0.674, 0.253, 1.426], abs=5e-4)


def test_z_follows_the_formula_or_is_1_5():
    attack = attacks.ALittleIsEnough()
    for num_workers in range(1, 61):
        for num_byzantine in range(num_workers + 1):
            s = int(np.floor(num_workers / 2 + 1)) - num_byzantine
            honest = num_workers - num_byzantine
            argument = (honest - s) / honest if honest else 1.0
            expected = norm.ppf(argument) if 0 < argument < 1 else 1.5
            assert attack.effective_z(num_workers, num_byzantine) == pytest.approx(expected, abs=1e-9)


def test_z_of_all_workers_or_1_5():
    """As ByzPy, krum and BANT have it."""
    attack = attacks.ALittleIsEnough(formula="all_workers")
    for num_workers in range(1, 41):
        for num_byzantine in range(num_workers + 1):
            s = int(np.floor(num_workers / 2 + 1)) - num_byzantine
            argument = (num_workers - s) / num_workers
            expected = norm.ppf(argument) if 0 < argument < 1 else 1.5
            assert attack.effective_z(num_workers, num_byzantine) == pytest.approx(expected, abs=1e-9)
    assert attack.effective_z(10, 3) == pytest.approx(norm.ppf(0.7))
    assert attack.effective_z(10, 7) == 1.5


def test_the_floor_of_z():
    attack = attacks.make("alie", min_z=0.3)
    assert [attack.effective_z(10, m) for m in (1, 2, 3)] == [0.3] * 3
    assert attack.effective_z(10, 5) == pytest.approx(0.842, abs=5e-4)
    assert attacks.make("alie", z=-1, min_z=0).effective_z(10, 5) == 0
    gradients = gradients_like(2, 10, 30)
    mask = mask_of(10, [0], list(range(5)))
    submitted = common("alie", gradients, mask, min_z=0.3)
    assert torch.equal(submitted[0], common("alie", gradients, mask, z=0.3)[0])
    assert torch.equal(submitted[1], common("alie", gradients, mask)[1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("num_workers", "dimension"), [(20, 2410), (60, 7)])
def test_the_last_bits_do_not_depend_on_the_batch(name, num_workers, dimension):
    gradients = gradients_like(8, num_workers, dimension)
    mask = mask_of(num_workers, *[list(range(env)) for env in range(8)])
    batch = common(name, gradients, mask)
    for env in range(8):
        assert torch.equal(common(name, gradients[env : env + 1], mask[env : env + 1])[0], batch[env])


def test_products_too_large_are_infinite():
    submitted = common("omniscient", torch.full((1, 3, 2), 1e30), mask_of(3, [0]))
    assert (submitted == -torch.inf).all()


def test_sybils_are_near_copies_of_the_reversed_mean():
    gradients = gradients_like(2, 8, 5000) * 3
    mask = mask_of(8, [0, 4, 7], [1, 2, 3, 5])
    submitted = attacks.make("sybils", scale=2, noise=0.1)(gradients, mask, context_for(gradients))
    for env in range(2):
        mean = gradients[env, ~mask[env]].mean(0)
        noise = submitted[env, mask[env]] + 2 * mean
        unit = 2 * 0.1 * mean.square().mean().sqrt()
        assert norm.fit((noise / unit).flatten().double().numpy()) == pytest.approx((0, 1), abs=0.03)
        assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.06
    exact = attacks.make("sybils", scale=2, noise=0)(gradients, mask, context_for(gradients))
    assert torch.equal(exact, attacks.make("ipm", epsilon=2)(gradients, mask, context_for(gradients)))
