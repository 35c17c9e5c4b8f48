"""Attacks on a worker's own gradient."""

from __future__ import annotations

import pytest
import torch
from attack_cases import gradients_like, mask_of, submit

from byzgym import aggregation
from byzgym.simulation import Simulation

GRADIENTS = gradients_like(2, 4, 10)
MASK = mask_of(4, [1, 2], [3])


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
    submitted = submit(name, GRADIENTS, MASK, **parameters)
    assert torch.equal(submitted[MASK], GRADIENTS[MASK] * multiple)


def test_one_coordinate_is_moved():
    submitted = submit("one_coordinate", GRADIENTS, MASK, scale=-2.0, coordinate=7)
    expected = GRADIENTS.clone()
    expected[..., 7] -= 2 * 10**0.5
    assert torch.equal(submitted[MASK], expected[MASK])
    assert torch.equal(submit("one_coordinate", GRADIENTS, MASK)[MASK][:, 1:], GRADIENTS[MASK][:, 1:])


def test_krum_takes_one_wrong_coordinate():
    """The hidden vulnerability: 10 off in one coordinate, and closer to others than honest gradients."""
    gradients = 1.2 * gradients_like(1, 9, 10_000)
    gradients[0, 0] /= 3
    submitted = submit("one_coordinate", gradients, mask_of(9, [0, 1]))
    chosen = aggregation.make("krum", num_byzantine=2)(submitted)
    assert torch.equal(chosen[0], submitted[0, 0])
    assert chosen[0, 0].item() == pytest.approx(gradients[0, 0, 0].item() + 10, abs=1e-4)


def test_one_coordinate_must_exist():
    with pytest.raises(ValueError, match="coordinate must be an integer from 0 to 9, got 10"):
        submit("one_coordinate", GRADIENTS, MASK, coordinate=10)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_rows_that_are_not_finite(value):
    submitted = submit("non_finite", GRADIENTS, MASK, value=value)
    assert {str(number) for number in submitted[MASK].flatten().tolist()} == {value}
    assert torch.equal(submit(f"non_finite:value={value}", GRADIENTS, MASK)[~MASK], GRADIENTS[~MASK])


def test_the_server_rejects_rows_that_are_not_finite():
    simulation = Simulation.make(
        2, seed=0, task="synthetic", num_workers=6, num_byzantine=2, attack="non_finite"
    )
    assert torch.equal(simulation.view.rejected, simulation.byzantine)
