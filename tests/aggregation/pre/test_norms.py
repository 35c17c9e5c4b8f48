"""Clipping and normalising beside loops over numpy arrays."""

import aggregation_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byzgym import aggregation
from byzgym.aggregation import Decision
from byzgym.aggregation.pre import ARC, Normalize, StaticClipping

ROWS = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.6, 0.8], [-30.0, 40.0], [0.0, -10.0]])
"""Their norms are 5, 0, 1, 50 and 10."""


def clipped(rows, bound):
    rows = np.asarray(rows, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=1)
    largest = bound(norms)
    factors = [1.0 if norm <= largest else largest / norm for norm in norms]
    return np.array(factors)[:, None] * rows


def arc_bound(f):
    def bound(norms):
        n = len(norms)
        return np.sort(norms)[n - 1 - int(np.floor(2 * f * (n - f) / n + 1e-12))]

    return bound


def test_values_by_hand():
    shortened = torch.tensor([[1.2, 1.6], [0.0, 0.0], [0.6, 0.8], [-1.2, 1.6], [0.0, -2.0]])
    torch.testing.assert_close(StaticClipping(max_norm=2)(ROWS), shortened)
    unit = torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, 0.8], [-0.6, 0.8], [0.0, -1.0]])
    torch.testing.assert_close(Normalize()(ROWS), unit)
    # f = 1: k = floor(8 / 5) = 1, so 50 becomes 10; f = 2: k = floor(12 / 5) = 2, so 50 and 10 become 5.
    torch.testing.assert_close(ARC(1)(ROWS)[3:], torch.tensor([[-6.0, 8.0], [0.0, -10.0]]))
    torch.testing.assert_close(ARC(2)(ROWS)[3:], torch.tensor([[-3.0, 4.0], [0.0, -5.0]]))
    assert torch.equal(ARC(2)(ROWS)[:3], ROWS[:3])
    assert torch.equal(ARC(0)(ROWS), ROWS)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 14),
    family=st.sampled_from(reference.FAMILIES),
    portion=st.floats(0, 1),
)
def test_beside_the_reference(seed, n, family, portion):
    rows = reference.draw(family, n, 6, seed)
    f = int(portion * ((n - 1) // 2))
    for made, bound in ((StaticClipping(max_norm=0.7), lambda norms: 0.7), (ARC(f), arc_bound(f))):
        result = made(rows).double().numpy()
        expected = clipped(rows, bound)
        assert (np.abs(result - expected) <= 1e-6 * np.abs(expected).max(1, keepdims=True) + 1e-44).all()
    norms = torch.linalg.vector_norm(Normalize()(rows).double(), dim=1)
    assert ((norms - 1).abs() < 1e-6)[rows.abs().amax(1) > 0].all()


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e30, 3e38])
def test_huge_and_tiny_submissions(size):
    rows = torch.tensor([[1.0, 0.0], [0.6, -0.8]]) * size
    torch.testing.assert_close(Normalize()(rows), torch.tensor([[1.0, 0.0], [0.6, -0.8]]))
    expected = rows if size < 1 else torch.tensor([[2.0, 0.0], [1.2, -1.6]])
    torch.testing.assert_close(StaticClipping()(rows), expected)


def test_factors_multiply():
    rule = aggregation.make("mean", pre=["static_clipping:max_norm=10", "static_clipping:max_norm=2"])
    torch.testing.assert_close(rule.credits(ROWS), torch.tensor([0.4, 1, 1, 0.04, 0.2]) / 5)
    torch.testing.assert_close(rule(ROWS), StaticClipping()(ROWS).mean(0))


def test_credits_of_normalised_submissions():
    rule = aggregation.make("normalize+mean")
    assert not rule.linear  # some decisions have no credits
    torch.testing.assert_close(rule.credits(ROWS), torch.tensor([0.2, 0, 1, 0.02, 0.1]) / 5)
    short = torch.stack([ROWS, 0.1 * ROWS])
    theta = torch.zeros(2, 2)
    decision = rule.decide(aggregation.ServerView(short, theta, 0.1, None))
    assert isinstance(decision, Decision)
    torch.testing.assert_close(decision.credits[0], rule.credits(ROWS))
    assert decision.credits[1].isnan().all()  # they would sum to 2.6
    torch.testing.assert_close(decision.update[0], decision.update[1])


@pytest.mark.parametrize("value", [0, -1, torch.nan, True])
def test_bad_norms(value):
    with pytest.raises(ValueError, match="max_norm must be a finite number greater than 0"):
        StaticClipping(max_norm=value)
