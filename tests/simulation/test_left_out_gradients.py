"""Gradients that an attack replaces unseen need not be computed; nothing else may change by that."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from byzgym import attacks, tasks
from byzgym.simulation import Simulation

WIDE = {"task": "wide_test_task", "num_workers": 6, "num_byzantine": 4, "batch_size": 5, "qv_size": 4}
BLIND = {"name": "ipm", "epsilon": 0.7}


@pytest.fixture(autouse=True, scope="module")
def wide_task():
    """A task whose models have more than LONG_ROW parameters, so that leaving gradients out is worth it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 500, generator=generator)
    y = torch.randint(3, (200,), generator=generator)
    tasks.register("wide_test_task", lambda: tasks.Task((x, y), (x, y), num_classes=3, model="mlp:40"))
    tasks.models.register("wide_dropout", dropout_net)
    tasks.models.register("wide_tanh", tanh_net)
    attacks.register("seeing_ipm", SeeingIpm)


class SeeingIpm(attacks.InnerProductManipulation):
    """The same attack, but for the promise not to read the Byzantine rows."""

    reads_own = True


def dropout_net(input_shape, num_classes):
    return torch.nn.Sequential(
        torch.nn.Linear(500, 40), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(40, num_classes)
    )


def tanh_net(input_shape, num_classes):
    """Not a plain multilayer perceptron, so that vmap computes it."""
    return torch.nn.Sequential(torch.nn.Linear(500, 40), torch.nn.Tanh(), torch.nn.Linear(40, num_classes))


def rounds(count=6, num_envs=2, **arguments):
    """The submissions of some rounds, and how often so many workers' gradients were computed."""
    simulation = Simulation.make(num_envs, seed=3, **{**WIDE, **arguments})
    computed, compute = Counter(), simulation.engine.gradients

    def counting(theta, x, *others):
        computed[x.shape[1]] += 1
        compute(theta, x, *others)

    simulation.engine.gradients = counting
    seen = []
    for _ in range(count):
        simulation.apply(simulation.gradients.mean(1))
        seen.append((simulation.byzantine.clone(), simulation.gradients.clone()))
    return seen, computed


def assert_same(one, other):
    for (mask, submitted), (expected_mask, expected) in zip(one, other, strict=True):
        assert torch.equal(mask, expected_mask)
        torch.testing.assert_close(submitted, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", ["mlp:40", "softmax", "wide_tanh"])
@pytest.mark.parametrize("roles", ["static", {"name": "randomized", "period": 2}])
def test_submissions_are_those_with_all_gradients(model, roles):
    arguments = {"model": model, "roles": roles}
    seen, computed = rounds(attack=BLIND, **arguments)
    expected, all_computed = rounds(attack={**BLIND, "name": "seeing_ipm"}, **arguments)
    assert_same(seen, expected)
    assert set(all_computed) == {6}
    if model == "softmax":  # 1,503 parameters: not worth it
        assert set(computed) == {6}
    elif roles == "static":
        assert set(computed) == {2}


def test_environments_with_different_numbers_of_byzantine_workers_compute_all():
    simulation = Simulation.make(2, seed=0, per_environment=[{"num_byzantine": f} for f in (1, 4)], **WIDE)
    assert simulation.workers._rows_in_use(torch.arange(2), [(attacks.make("ipm"), torch.arange(2))]) is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"attack": "sign_flip"},
        {"attack": "label_flip"},
        {"attack": "bit_flip"},
        {"attack": BLIND, "worker_momentum": 0.5},
        {"attack": BLIND, "model": "wide_dropout"},
        {"attack": BLIND, "num_byzantine": 0},
    ],
)
def test_all_are_computed_where_they_matter(arguments):
    assert set(rounds(2, **arguments)[1]) == {6}


def test_a_plain_function_sees_what_byzantine_workers_would_honestly_send():
    shown = []

    def spy(gradients, byzantine, context):
        shown.append(gradients[byzantine].clone())
        return torch.zeros_like(gradients)

    attacks.register("wide_spy", lambda: spy)
    rounds(2, attack="wide_spy")
    honest = Simulation.make(2, seed=3, **{**WIDE, "attack": "none"})
    torch.testing.assert_close(shown[0], honest.gradients[honest.byzantine])


def test_leftovers_of_a_rejected_submission_do_no_harm():
    """Omniscient submissions overflow and stay in the buffer with secure groups, which cannot reject rows."""
    arguments = {"attack": {"name": "omniscient", "factor": 1e38}, "secure_group_size": 2}
    simulation = Simulation.make(1, seed=3, **{**WIDE, **arguments})
    for _ in range(3):
        simulation.apply(torch.zeros(1, simulation.num_parameters))
        honest = simulation.workers.submissions[~simulation.byzantine]
        assert honest.isfinite().all()
        assert honest.any(1).all()
