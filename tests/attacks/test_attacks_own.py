"""Attacks on the own gradient, noise and poisoned labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attack_cases import context_for, gradients_like, mask_of
from scipy import stats

from byzgym import attacks

GRADIENTS = gradients_like(2, 4, 10)
MASK = mask_of(4, [1, 2], [3])


def submit(name, gradients=GRADIENTS, mask=MASK, **parameters):
    return attacks.make(name, **parameters)(gradients, mask, context_for(gradients))


@pytest.mark.parametrize(
    ("name", "parameters", "multiple"),
    [
        ("none", {}, 1.0),
        ("scaled", {}, 10.0),
        ("scaled", {"factor": -0.5}, -0.5),
        ("sign_flip", {}, -1.0),
        ("sign_flip", {"scale": 3}, -3.0),
        ("zero", {}, 0.0),
    ],
)
def test_multiples_of_the_own_gradient(name, parameters, multiple):
    submitted = submit(name, **parameters).expand_as(GRADIENTS)
    assert torch.equal(submitted[MASK], GRADIENTS[MASK] * multiple)


@pytest.mark.parametrize(
    ("name", "parameters", "distribution", "arguments"),
    [
        ("gaussian", {}, stats.norm, (0, 200)),
        ("gaussian", {"mean": 3.0, "std": 0.5}, stats.norm, (3, 0.5)),
        ("random", {}, stats.norm, (0.01, 2e-6)),
        ("uniform", {}, stats.uniform, (-1, 2)),
        ("uniform", {"low": 0.25, "high": 0.75}, stats.uniform, (0.25, 0.5)),
    ],
)
def test_noise_has_its_distribution(name, parameters, distribution, arguments):
    gradients = torch.zeros(2, 4, 5000)
    submitted = submit(name, gradients, **parameters)
    for env in range(2):
        # A mean that is wrong by a tenth of the deviation gives less than 1e-8.
        sample = submitted[env][MASK[env]].flatten().double().numpy()
        assert stats.kstest(sample, distribution(*arguments).cdf).pvalue > 1e-3


def test_byzantine_workers_draw_different_noise():
    first, second = submit("gaussian")[0, [1, 2]]
    assert not torch.isclose(first, second).any()


def test_noise_draws_no_more_than_the_byzantine_rows():
    gradients = gradients_like(2, 6, 40)
    context = context_for(gradients, seed=11)
    submitted = attacks.make("gaussian")(gradients, mask_of(6, [1, 3, 5], []), context)
    generator = torch.Generator().manual_seed(11)
    expected = torch.empty(3, 40).normal_(0, 200, generator=generator)
    assert torch.equal(submitted[0, [1, 3, 5]], expected)
    assert torch.equal(context.generators[0].get_state(), generator.get_state())
    assert torch.equal(context.generators[1].get_state(), torch.Generator().manual_seed(12).get_state())


def test_constants_are_allowed_as_noise():
    assert (submit("gaussian", mean=2.0, std=0.0)[MASK] == 2.0).all()
    assert (submit("uniform", low=0.5, high=0.5)[MASK] == 0.5).all()


def test_flipped_labels():
    x = torch.ones(2, 4, 3, 5)
    y = torch.tensor([0, 4, 9]).expand(2, 4, 3)
    context = context_for(GRADIENTS)
    poisoned_x, poisoned_y = attacks.make("label_flip").poison(x, y, MASK, context)
    assert poisoned_x is x
    for env, worker in np.ndindex(2, 4):
        expected = [9, 5, 0] if MASK[env, worker] else [0, 4, 9]
        assert poisoned_y[env, worker].tolist() == expected
    assert poisoned_y.dtype == torch.int64
    assert y[0, 1].tolist() == [0, 4, 9]


def test_flipped_labels_use_the_number_of_classes():
    context = context_for(GRADIENTS)
    context.num_classes = 2
    _, y = attacks.make("label_flip").poison(torch.zeros(2, 4, 1), torch.zeros(2, 4, 1).long(), MASK, context)
    assert torch.equal(y[..., 0] == 1, MASK)
