"""Attacks on a worker's own gradient."""

from __future__ import annotations

import pytest
import torch
from attack_cases import gradients_like, mask_of, submit

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
