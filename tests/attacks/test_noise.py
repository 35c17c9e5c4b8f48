"""Gaussian and uniform noise."""

from __future__ import annotations

import pytest
import torch
from attack_cases import context_for, gradients_like, mask_of, submit
from scipy import stats

from byzgym import attacks

MASK = mask_of(4, [1, 2], [3])


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
    submitted = submit(name, torch.zeros(2, 4, 5000), MASK, **parameters)
    for env in range(2):
        # A mean that is wrong by a tenth of the deviation gives less than 1e-8.
        sample = submitted[env][MASK[env]].flatten().double().numpy()
        assert stats.kstest(sample, distribution(*arguments).cdf).pvalue > 1e-3


def test_only_byzantine_rows_are_drawn():
    gradients = gradients_like(2, 6, 40)
    context = context_for(gradients, seed=11)
    submitted = attacks.make("gaussian")(gradients, mask_of(6, [1, 3, 5], []), context)
    generator = torch.Generator().manual_seed(11)
    expected = torch.empty(3, 40).normal_(0, 200, generator=generator)
    assert torch.equal(submitted[0, [1, 3, 5]], expected)
    assert torch.equal(context.generators[0].get_state(), generator.get_state())
    assert torch.equal(context.generators[1].get_state(), torch.Generator().manual_seed(12).get_state())


def test_uniform_noise_is_no_wider_than_float32():
    with pytest.raises(ValueError, match="high - low"):
        attacks.make("uniform", low=-3e38, high=3e38)
    attacks.make("uniform", low=-1e38, high=1e38)
