"""Bant and AutoBANT: by hand, against slow references, and where the loss overflows."""

import math

import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import every_family
from hypothesis import given, settings
from hypothesis import strategies as st
from server_views import RATE, normal, slow_loss, view_of

from byzgym.aggregation import ServerView, make
from byzgym.memory import Memory


def slow_bant(scores, rows, target, beta, renormalize):
    """The new trust scores and the credits of one run."""
    before = slow_loss(0 * rows[0], target)
    drops = [max(before - slow_loss(row, target), 0.0) for row in rows]
    even = [1 / len(rows)] * len(rows)
    present = [drop / sum(drops) for drop in drops] if sum(drops) else even
    scores = [(1 - beta) * score + beta * now for score, now in zip(scores, present, strict=True)]
    credits = [score if drop > 0 else 0.0 for score, drop in zip(scores, drops, strict=True)]
    if renormalize and sum(credits):
        credits = [credit / sum(credits) for credit in credits]
    return scores, credits


@every_family
@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize(("beta", "renormalize"), [(0.5, False), (1.0, True), (0.1, True)])
def test_bant_against_reference(family, n, beta, renormalize):
    memory, rule = Memory(2), make("bant", beta=beta, renormalize=renormalize)
    scores = [[1 / n] * n, [1 / n] * n]
    for number in range(4):
        runs = torch.stack([reference.draw(family, n, 6, 9 * number + e, torch.float64) for e in range(2)])
        target = normal(2, 6, seed=number)
        credits = rule.credits(view_of(runs, target, memory))
        for env in range(2):
            scores[env], expected = slow_bant(
                scores[env], runs[env].numpy(), target[env].numpy(), beta, renormalize
            )
            np.testing.assert_allclose(credits[env], expected, atol=1e-9)


def test_bant_gives_nothing_where_nothing_lowers_the_loss():
    memory = Memory(1)
    decision = make("bant").decide(view_of(torch.ones(1, 4, 2), torch.ones(1, 2), memory))
    assert not decision.credits.any()
    # and the scores have stayed at 1/4: one worker of two now gets (1/4 + 1) / 2
    gradients = torch.tensor([[[-1.0, -1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    credits = make("bant").credits(view_of(gradients, torch.ones(1, 2), memory))
    torch.testing.assert_close(credits, torch.tensor([[0.625, 0, 0, 0]]))


def slow_auto_bant(rows, target, steps, rate):
    """The credits of one run with a quadratic loss, and all that were tried."""
    credits, best, tried = np.full(len(rows), 1 / len(rows)), np.inf, []
    for number in range(steps + 1):
        update = credits @ rows
        tried.append(slow_loss(update, target))
        if tried[-1] < best:
            best, chosen = tried[-1], credits
        if number < steps:
            gradient = -RATE * update - target
            direction = gradient / np.sqrt((gradient**2).sum())
            weights = [
                w * math.exp(np.clip(rate * (direction @ row) / np.sqrt((target**2).sum()), -100, 100))
                for w, row in zip(credits, rows, strict=True)
            ]
            credits = np.array(weights) / sum(weights)
    return chosen


@pytest.mark.parametrize("family", ["gaussian", "ties", "equal_rows", "offset", "zeros"])
@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize(("steps", "rate"), [(1, 1.0), (8, 1.0), (5, 3.0)])
def test_auto_bant_against_reference(family, n, steps, rate):
    runs = torch.stack([reference.draw(family, n, 6, seed, torch.float64) for seed in range(3)])
    target = normal(3, 6, seed=9)
    credits = make("auto_bant", steps=steps, rate=rate).credits(view_of(runs, target))
    for rows, aim, given_ in zip(runs.numpy(), target.numpy(), credits, strict=True):
        np.testing.assert_allclose(given_, slow_auto_bant(rows, aim, steps, rate), rtol=1e-6, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12), exponent=st.integers(-9, 9))
def test_auto_bant_is_no_worse_than_the_mean(seed, n, exponent):
    rows, target = normal(1, n, 6, seed=seed) * 10.0**exponent, normal(1, 6, seed=seed + 1)
    update = make("auto_bant").aggregate(view_of(rows, target))[0].numpy()
    mean = slow_loss(rows[0].mean(0).numpy(), target[0].numpy())
    assert slow_loss(update, target[0].numpy()) <= mean * (1 + 1e-9)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_units_have_no_effect_on_auto_bant(scale):
    rows, target = normal(1, 7, 6), normal(1, 6, seed=1)
    credits = make("auto_bant").credits(view_of(rows, target))
    # Parameters, and with them gradients, in another unit.
    other = ServerView(
        scale * rows,
        torch.zeros(1, 6).double(),
        RATE,
        lambda theta: ((theta / scale - target) ** 2).sum(1) / 2 * scale**2,
    )
    torch.testing.assert_close(make("auto_bant").credits(other), credits)


@pytest.mark.parametrize("size", [1e6, 1e15, 1e25, 1e30])
def test_auto_bant_leaves_out_huge_submissions(size):
    gradients = normal(1, 10, 20, dtype=torch.float32) / 20 + 1
    gradients[:, 3:] = size * normal(1, 7, 20, seed=1, dtype=torch.float32)
    decision = make("auto_bant").decide(view_of(gradients, -torch.ones(1, 20)))
    assert decision.credits[0, :3].sum() > 0.99
    assert decision.update.norm() < 10


def test_auto_bant_gives_nothing_where_the_loss_always_overflows():
    view = ServerView(torch.ones(1, 3, 2), torch.zeros(1, 2), 0.1, lambda theta: theta.sum(1) + torch.inf)
    assert not make("auto_bant").decide(view).update.any()


@pytest.mark.parametrize(
    ("name", "parameters", "problem"),
    [
        ("bant", {"beta": 0.0}, "beta must be a finite number greater than 0 and of at most 1"),
        ("bant", {"renormalize": 1}, "renormalize must be True or False"),
        ("auto_bant", {"steps": 0}, "steps must be an integer of at least 1"),
        ("auto_bant", {"rate": 0.0}, "rate must be a finite number greater than 0"),
    ],
)
def test_parameters_are_checked(name, parameters, problem):
    with pytest.raises(ValueError, match=problem):
        make(name, **parameters)
