"""The attack on norm-based rules."""

from __future__ import annotations

import pytest
import torch
from attack_cases import context_for, gradients_like, mask_of
from hypothesis import given, settings
from hypothesis import strategies as st

from byzgym import attacks


def sent_by(gradients, mask):
    return attacks.make("anti_clipping")(gradients, mask, context_for(gradients))


def test_hand_computed_values():
    # The two shortest honest rows are (3, 0) and (3, 4), with the sum (6, 4); the next norm is 9.
    gradients = torch.tensor([[[3.0, 4.0], [3.0, 0.0], [0.0, 9.0], [0.0, 0.0]]])
    sent = sent_by(gradients, mask_of(4, [3]))[0, 3]
    torch.testing.assert_close(sent, torch.tensor([-6.0, -4.0]) * 9 / 52**0.5, rtol=2e-5, atol=0)
    # With two of four Byzantine none is kept: the shortest is reversed.
    sent = sent_by(gradients, mask_of(4, [2, 3]))[0, 2]
    torch.testing.assert_close(sent, torch.tensor([-3.0, 0.0]), rtol=2e-5, atol=0)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 9), st.data())
def test_all_are_among_the_shortest(num_workers, data):
    number = data.draw(st.integers(1, num_workers - 1))
    gradients = gradients_like(1, num_workers, 12, seed=data.draw(st.integers(0, 99)))
    mask = mask_of(num_workers, list(range(number)))
    norms = sent_by(gradients, mask)[0].norm(dim=1)
    kept = norms.argsort()[: num_workers - number]
    byzantine = int(mask[0, kept].sum())
    assert byzantine == min(number, num_workers - number)
    honest = norms[number:].sort().values
    cut = honest[max(0, num_workers - 2 * number)]
    assert float(norms[0]) == pytest.approx(float(cut), rel=3e-5)


def test_nobody_honest_and_nobody_byzantine():
    gradients = gradients_like(2, 3, 5)
    sent = sent_by(gradients, mask_of(3, [0, 1, 2], []))
    assert not sent[0].any()
    assert torch.equal(sent[1], gradients[1])
