"""FoolsGold: by hand, against a slow reference, and on sybils."""

import math

import aggregation_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from server_views import normal, view_of

from byzgym.aggregation import make
from byzgym.memory import Memory


def slow_weights(history, confidence):
    n = len(history)

    def cosine(a, b):
        lengths = np.sqrt((a**2).sum()) * np.sqrt((b**2).sum())
        value = a @ b / lengths if lengths else 0.0
        return 1.0 if value > 1 - 1e-5 else value

    alike = [[cosine(history[i], history[j]) if i != j else 0.0 for j in range(n)] for i in range(n)]
    most = [max(row) for row in alike]
    alone = []
    for i in range(n):
        pardoned = [alike[i][j] * most[i] / most[j] if most[i] < most[j] else alike[i][j] for j in range(n)]
        alone.append(min(max(1 - max(pardoned), 0.0), 1.0))
    weights = []
    for value in alone:
        share = value / max(alone) if max(alone) else 0.0
        odds = math.inf if share == 1 else math.log(share / (1 - share)) if share else -math.inf
        weights.append(min(max(confidence * (odds + 0.5), 0.0), 1.0))
    return weights


@pytest.mark.parametrize("family", reference.FAMILIES)
@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize("confidence", [1.0, 0.1])
def test_against_reference(family, n, confidence):
    memory, rule = Memory(2), make("foolsgold", confidence=confidence)
    history = np.zeros((2, n, 6))
    for number in range(3):
        runs = torch.stack([reference.draw(family, n, 6, 9 * number + e, torch.float64) for e in range(2)])
        credits = rule.credits(view_of(runs, memory=memory))
        history += runs.numpy()
        for env in range(2):
            expected = np.array(slow_weights(history[env], confidence)) / n
            np.testing.assert_allclose(credits[env], expected, atol=1e-9)


def test_by_hand():
    # Cosines .6 of the first two, 0 of the rest: a = .4, .4, 1, and the logarithm of 2/3 is -.405.
    gradients = torch.tensor([[[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 5.0]]])
    credits = make("foolsgold").credits(view_of(gradients, memory=Memory(1)))
    expected = torch.tensor([[math.log(2 / 3) + 0.5, math.log(2 / 3) + 0.5, 1.0]]) / 3
    torch.testing.assert_close(credits, expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), sybils=st.integers(2, 9))
def test_sybils_get_nothing_however_many_they_are(seed, sybils):
    memory, rule = Memory(1), make("foolsgold")
    honest = normal(1, 5, 400, seed=seed, dtype=torch.float32)
    for number in range(3):
        noise = normal(1, sybils, 400, seed=seed + number + 1, dtype=torch.float32)
        sent = 1 + noise / 20
        credits = rule.credits(view_of(torch.cat([honest, sent], 1), memory=memory))
    assert not credits[0, 5:].any()
    torch.testing.assert_close(credits[0, :5].sum(), torch.tensor(5 / (5 + sybils)), rtol=0.05, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("factors", [[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
def test_nobody_gets_anything_where_all_have_sent_the_same(scale, factors):
    gradients = scale * normal(1, 1, 50, dtype=torch.float32) * torch.tensor(factors)[:, None]
    assert not make("foolsgold").credits(view_of(gradients, memory=Memory(1))).any()


def test_the_past_counts():
    memory, rule = Memory(1), make("foolsgold")
    same = torch.tensor([[[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]]])
    rule.credits(view_of(same, memory=memory))
    apart = torch.tensor([[[0.0, 0.1], [0.1, 0.0], [0.0, 9.0]]])
    assert rule.credits(view_of(apart, memory=memory))[0].tolist() == pytest.approx([0, 0, 1 / 3])
    memory.reset([0])
    assert rule.credits(view_of(apart, memory=memory))[0, 1] > 0


def test_rejected_submissions_count_for_nothing():
    gradients = torch.tensor([[[1.0, 0.0], [torch.nan, 0.0], [0.0, 1.0]]])
    credits = make("foolsgold").credits(view_of(gradients, memory=Memory(1)))
    torch.testing.assert_close(credits, torch.tensor([[0.5, 0, 0.5]]))
