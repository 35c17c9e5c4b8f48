"""Omniscient, IPM and ALIE against hand-computed values and slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attack_cases import context_for, gradients_like, mask_of
from scipy.stats import norm

from byzgym import attacks
from byzgym.attacks.alie import z_value
from byzgym.attacks.honest import LONG_ROW

SMALL = torch.tensor([[[1.0, -2.0], [3.0, 4.0], [5.0, 0.0], [100.0, 100.0]]])
SMALL_MASK = mask_of(4, [3])


def submit(name, gradients, mask, **parameters):
    """The common submission of the Byzantine workers, shape [E, 1, d]."""
    return attacks.make(name, **parameters).corrupt(gradients, mask, context_for(gradients))


def honest_rows(gradients, mask, env):
    return gradients[env].double().numpy()[~mask[env].numpy()]


def test_hand_computed_values():
    assert submit("ipm", SMALL, SMALL_MASK).tolist() == pytest.approx(np.array([[[-1.5, -1 / 3]]]))
    assert submit("ipm", SMALL, SMALL_MASK, epsilon=2).tolist() == pytest.approx(np.array([[[-6.0, -4 / 3]]]))
    expected = np.array([[[-9e20, -2e20]]])
    assert submit("omniscient", SMALL, SMALL_MASK).tolist() == pytest.approx(expected, rel=1e-6)
    # Mean (3, 2/3); population variance (8/3, 56/9).
    expected = np.array([[[3 - 1.633 * 2, 0.66667 - 2.49444 * 2]]])
    assert submit("alie", SMALL, SMALL_MASK, z=2).tolist() == pytest.approx(expected, rel=1e-4)


def test_against_numpy_with_different_numbers_of_byzantine_workers():
    gradients = gradients_like(4, 20, 50)
    mask = mask_of(20, [0, 5, 7, 8, 11, 19], list(range(8)), [], list(range(19)))
    ipm, omniscient = (submit(name, gradients, mask)[:, 0].numpy() for name in ("ipm", "omniscient"))
    alie = submit("alie", gradients, mask)[:, 0].numpy()
    for env, z in enumerate((0.366, 0.674, norm.ppf(9 / 20), 1.5)):
        rows = honest_rows(gradients, mask, env)
        np.testing.assert_allclose(ipm[env], -0.5 * rows.mean(0), atol=1e-6)
        np.testing.assert_allclose(omniscient[env], -1e20 * rows.sum(0), atol=1e15)
        np.testing.assert_allclose(alie[env], rows.mean(0) - z * rows.std(0), atol=2e-3)


@pytest.mark.parametrize(
    ("num_workers", "num_byzantine", "z"),
    [
        (10, 2, 0),
        (10, 3, 0.180),
        (10, 4, 0.431),
        (10, 5, 0.842),
        (20, 6, 0.366),
        (20, 8, 0.674),
        (50, 10, 0.253),
        (50, 24, 1.426),
    ],
)
def test_the_published_values_of_z(num_workers, num_byzantine, z):
    assert z_value(num_workers, num_byzantine) == pytest.approx(z, abs=5e-4)


def test_z_follows_the_formula_and_is_fixed_where_that_is_undefined():
    for num_workers in range(1, 61):
        for num_byzantine in range(num_workers + 1):
            s = int(np.floor(num_workers / 2 + 1)) - num_byzantine
            honest = num_workers - num_byzantine
            argument = (honest - s) / honest if honest else 1.0
            expected = norm.ppf(argument) if 0 < argument < 1 else 1.5
            assert z_value(num_workers, num_byzantine) == pytest.approx(expected, abs=1e-9)
    assert z_value(10, 7) == 1.5
    assert z_value(10, 6) == 1.5
    assert z_value(2, 1) == 1.5


def test_a_given_z_is_used_whatever_the_numbers():
    gradients = gradients_like(2, 10, 30)
    mask = mask_of(10, [0, 1], list(range(7)))
    submitted = submit("alie", gradients, mask, z=-1.5)[:, 0].numpy()
    for env in range(2):
        rows = honest_rows(gradients, mask, env)
        np.testing.assert_allclose(submitted[env], rows.mean(0) + 1.5 * rows.std(0), atol=1e-5)


def test_alie_does_not_cancel():
    # Deviations of 0.01 on values of 1000: squares less the squared mean would lose them altogether.
    gradients = 1000 + gradients_like(1, 20, 200) * 0.01
    mask = mask_of(20, [1, 2, 3])
    rows = honest_rows(gradients, mask, 0)
    std = (rows.mean(0) - submit("alie", gradients, mask, z=1e4)[0, 0].double().numpy()) / 1e4
    np.testing.assert_allclose(std, rows.std(0), rtol=1e-3)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e-5, 1e5, 1e10, 1e20, 1e30])
def test_alie_at_any_size(size):
    unit = gradients_like(2, 10, 50)
    gradients = torch.stack([unit[0] * size, unit[1]])
    mask = mask_of(10, [0, 1, 2], [4])
    submitted = submit("alie", gradients, mask, z=1.0)[:, 0].double().numpy()
    for env, scale in enumerate((size, 1.0)):
        rows = honest_rows(gradients, mask, env)
        np.testing.assert_allclose(submitted[env] / scale, (rows.mean(0) - rows.std(0)) / scale, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_alie_compiled(monkeypatch):
    gradients, mask = gradients_like(2, 6, LONG_ROW), mask_of(6, [0, 3, 4], [1, 2, 5])
    torch.testing.assert_close(
        submit("alie", gradients, mask, compiled=True), submit("alie", gradients, mask)
    )
    monkeypatch.setattr("byzgym.attacks.honest._kernel", lambda num_honest: pytest.fail("it was compiled"))
    submit("alie", gradients, mask, compiled=False)
    with pytest.raises(pytest.fail.Exception, match="it was compiled"):
        submit("alie", gradients, mask, compiled=True)


def test_alie_with_one_honest_worker_repeats_it():
    gradients = gradients_like(1, 5, 20)
    submitted = submit("alie", gradients, mask_of(5, [0, 1, 3, 4]))
    torch.testing.assert_close(submitted[0, 0], gradients[0, 2])


@pytest.mark.parametrize("name", ["ipm", "omniscient", "alie"])
def test_the_byzantine_workers_own_gradients_do_not_matter(name):
    gradients = gradients_like(1, 6, 20)
    mask = mask_of(6, [2, 3])
    other = gradients.clone()
    other[mask] = 1e25
    assert torch.allclose(submit(name, gradients, mask), submit(name, other, mask), rtol=1e-5)


@pytest.mark.parametrize("name", ["ipm", "omniscient", "alie"])
@pytest.mark.parametrize(("num_workers", "dimension"), [(10, 2410), (20, 2410), (60, 7)])
def test_the_last_bits_do_not_depend_on_the_size_of_the_batch(name, num_workers, dimension):
    gradients = gradients_like(8, num_workers, dimension)
    mask = mask_of(num_workers, *[list(range(env)) for env in range(8)])
    batch = submit(name, gradients, mask)
    for env in range(8):
        assert torch.equal(submit(name, gradients[env : env + 1], mask[env : env + 1])[0], batch[env])


def test_products_too_large_for_float32_are_infinite():
    submitted = submit("omniscient", torch.full((1, 3, 2), 1e30), mask_of(3, [0]))
    assert (submitted == -torch.inf).all()
