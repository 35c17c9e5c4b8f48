"""The line search, against a loop over one environment, and the attacks that use it."""

from __future__ import annotations

import math

import pytest
import torch
from attack_cases import context_for, gradients_like, mask_of
from hypothesis import given, settings
from hypothesis import strategies as st

from byzgym import aggregation, attacks
from byzgym.attacks.line_search import line_maximum

MASK = mask_of(9, [0, 4], [2, 7, 8], [], [1, 2, 3])


def slow_maximum(function, evaluations):
    """The search as a loop: expansion, then contraction."""
    delta, best, left = 1.0, 0.0, evaluations - 1
    highest = function(best)
    tried = best
    while left > 0:
        tried = best + delta
        value = function(tried)
        left -= 1
        if not value > highest:
            delta *= 0.8
            break
        best, highest, delta = tried, value, 2 * delta
    while left > 0:
        if tried < best:
            tried += delta
        else:
            lower = tried - delta
            while lower < 0 < tried:
                lower = (lower + tried) / 2
            tried = max(lower, 0.0)
        value = function(tried)
        left -= 1
        if value > highest:
            best, highest = tried, value
        delta *= 0.8
    return best


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-3, 300), min_size=1, max_size=5), st.integers(1, 30))
def test_searches_equal_a_loop_each(peaks, evaluations):
    at = torch.tensor(peaks, dtype=torch.float64)
    found = line_maximum(lambda x: -(x - at).abs(), torch.zeros_like(at), evaluations)
    for peak, factor in zip(peaks, found.tolist(), strict=True):
        assert factor == pytest.approx(slow_maximum(lambda x, p=peak: -abs(x - p), evaluations), rel=1e-12)
        assert factor >= 0


def test_a_peak_is_found():
    at = torch.tensor([0.0, 0.3, 5.0, 40.0])
    found = line_maximum(lambda x: -(x - at).square(), torch.zeros(4), 30)
    torch.testing.assert_close(found, at, rtol=0.02, atol=0.05)


def test_what_is_not_finite_is_no_maximum():
    assert line_maximum(lambda x: torch.where(x > 2, torch.inf, x), torch.zeros(1), 12) <= 2
    assert line_maximum(lambda x: torch.where(x > 0, torch.nan, x), torch.zeros(1), 12) == 0


def told(rule, gradients):
    context = context_for(gradients)
    context.rule = rule
    return context


@pytest.mark.parametrize("rule", ["median", "krum", "trimmed_mean", "mean"])
@pytest.mark.parametrize("name", ["ipm", "alie", "one_coordinate"])
def test_optimised_attacks_against_loops(name, rule):
    gradients = gradients_like(4, 9, 30) + 0.3
    made = aggregation.make_for(rule, 9, 3)
    attack = attacks.make(name, optimize=True, evaluations=12)
    submitted = attack(gradients, MASK, told(made, gradients))
    for env in (0, 1, 3):
        honest = gradients[env, ~MASK[env]]
        mean = honest.mean(0)
        direction = {
            "ipm": -mean,
            "alie": -honest.std(0, correction=0),
            "one_coordinate": torch.eye(30)[0],
        }[name]

        def deviation(factor, env=env, mean=mean, direction=direction):
            rows = gradients[env].clone()
            rows[MASK[env]] = mean + factor * direction
            return (made(rows) - mean).norm().item()

        factor = slow_maximum(deviation, 12)
        sent = submitted[env, MASK[env]]
        assert (sent == sent[0]).all()
        reached = deviation(((sent[0] - mean) @ direction / direction.square().sum()).item())
        # A tie may be broken otherwise, but what the rule does must be as bad.
        assert reached == pytest.approx(deviation(factor), rel=1e-3)


@pytest.mark.parametrize("rule", ["median", "krum", "geometric_median"])
def test_optimised_attacks_do_more_harm(rule):
    gradients = gradients_like(3, 9, 200) + 0.2
    mask = mask_of(9, [0, 1, 2], [3, 5, 7], [6, 7, 8])
    made = aggregation.make_for(rule, 9, 3)

    def harm(attack):
        submitted = attack(gradients, mask, told(made, gradients))
        honest = attacks.honest_mean(gradients, mask)
        return (made(submitted) - honest).norm(dim=1)

    for name in ("ipm", "alie"):
        assert (harm(attacks.make(name, optimize=True)) >= harm(attacks.make(name)) - 1e-5).all()


def test_only_the_optimised_ones_ask_for_the_rule():
    for name in ("ipm", "alie", "one_coordinate"):
        assert attacks.make(name).knowledge == frozenset()
        assert attacks.make(name, optimize=True).knowledge == {"rule"}


def test_the_rule_is_tried_as_often_as_allowed():
    calls = []

    def rule(rows):
        calls.append(rows.clone())
        return rows.mean(-2)

    gradients = gradients_like(2, 6, 5)
    mask = mask_of(6, [0, 1], [2])
    attacks.make("alie", optimize=True, evaluations=7)(gradients, mask, told(rule, gradients))
    assert len(calls) == 7
    assert all(torch.equal(rows[~mask], gradients[~mask]) for rows in calls)


def test_without_a_rule_it_is_the_mean():
    gradients = gradients_like(1, 4, 5) + 1
    mask = mask_of(4, [3])
    attack = attacks.make("ipm", optimize=True, evaluations=5)
    submitted = attack(gradients, mask, context_for(gradients))[0, 3]
    # Against the mean each step leads farther: 1 + 2 + 4 + 8.
    torch.testing.assert_close(submitted, (1 - 15) * gradients[0, :3].mean(0))
    assert math.isfinite(submitted.sum())


def test_long_rows_as_short_ones():
    """Coordinates in which all workers are zero change nothing."""
    gradients = gradients_like(4, 9, 30) + 0.3
    long = torch.nn.functional.pad(gradients, (0, 1 << 14))
    attack, rule = attacks.make("ipm", optimize=True), aggregation.make("median", num_byzantine=3)
    expected = attack(gradients, MASK, told(rule, gradients))
    found = attack(long, MASK, told(rule, long))
    torch.testing.assert_close(found[..., :30], expected, rtol=1e-4, atol=1e-5)
    assert not found[..., 30:].any()
