"""Poisoned labels."""

from __future__ import annotations

import pytest
import torch
from attack_cases import mask_of

from byzgym import attacks

MASK = mask_of(4, [1, 2], [3])


@pytest.mark.parametrize(
    ("num_classes", "flipped"), [(10, {0: 9, 4: 5, 9: 0}), (2, {0: 1, 1: 0}), (3, {0: 2, 1: 1, 2: 0})]
)
def test_labels_are_mirrored(num_classes, flipped):
    y = torch.tensor(list(flipped)).expand(2, 4, len(flipped))
    x = torch.ones(*y.shape, 5)
    context = attacks.AttackContext.standalone(torch.ones(2, 4, 1), num_classes=num_classes)
    poisoned_x, poisoned_y = attacks.make("label_flip").poison(x, y, MASK, context)
    assert poisoned_x is x
    assert poisoned_y.dtype == torch.int64
    assert (poisoned_y[MASK] == torch.tensor(list(flipped.values()))).all()
    assert torch.equal(poisoned_y[~MASK], y[~MASK])
