"""Observations against slow formulas, and against what they must not contain."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from byzgym import attacks
from byzgym.aggregation import ServerView
from byzgym.envs.observations import PARTS, ObservationBuilder, pool, symmetric_log
from byzgym.simulation import Simulation

TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "rounds": 10, "pool_size": 8}


def view_of(rows, qv_gradient, **fields):
    """A view with given rows [n, d] and QV gradient [d]."""
    theta = torch.zeros(1, rows.shape[1])
    return ServerView(
        gradients=rows[None],
        theta=theta,
        learning_rate=torch.ones(1),
        qv_loss=lambda theta: (theta * qv_gradient).sum(1) + 2.0,
        **fields,
    )


def build(spec, view, pool_size=2):
    n, d = view.gradients.shape[1:]
    return ObservationBuilder(spec, pool_size, n, d, rounds=10)(view)


def test_pool_averages_contiguous_blocks():
    rows = torch.arange(7.0)
    for expected in ([0.5, 2.5, 5.0], [3.0], rows.tolist()):
        means = torch.empty(len(expected))
        pool(rows, means)
        assert means.tolist() == expected


def test_pooled_by_hand():
    rows = torch.tensor([[3.0, 4.0, 0.0, 0.0], [6.0, 8.0, 0.0, 0.0], [0.0, 0.0, 30.0, 40.0]])
    qv = torch.tensor([1.0, 1.0, -1.0, -3.0])
    unit = 10 / 2  # median norm 10, divided by the root of d = 4
    expected = np.array([[3.5, 0], [7, 0], [0, 35], [1, -2]]) / unit
    expected = np.sign(expected) * np.log1p(np.abs(expected))
    np.testing.assert_allclose(build("pooled", view_of(rows, qv))[0], expected, rtol=1e-6)


def test_pooled_ignores_the_scale_of_all_gradients_together():
    generator = torch.Generator().manual_seed(0)
    rows, qv = torch.randn(5, 40, generator=generator), torch.randn(40, generator=generator)
    first = build("pooled", view_of(rows, qv), 8)
    for factor in (1e-20, 1e-25, 1e-29, 1e29):
        second = build("pooled", view_of(rows * factor, qv * factor), 8)
        np.testing.assert_allclose(first, second, rtol=1e-4)


def test_pooled_is_in_units_of_submissions_that_are_not_zero():
    rows, qv = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [6.0, 8.0]]), torch.tensor([1.0, -1.0])
    unit = 5 / 2**0.5  # of the two, the smaller counts as the median
    expected = np.array([[0, 0], [3, 4], [0, 0], [6, 8], [1, -1]]) / unit
    expected = np.sign(expected) * np.log1p(np.abs(expected))
    np.testing.assert_allclose(build("pooled", view_of(rows, qv))[0], expected, rtol=1e-6)
    nothing = build("pooled", view_of(torch.zeros(4, 2), qv))[0]
    np.testing.assert_allclose(nothing[-1], np.log(2) * np.array([1, -1]), rtol=1e-6)
    assert not nothing[:-1].any()


def test_other_parts_by_hand():
    rows = torch.tensor([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0]])
    qv = torch.tensor([0.0, 1.0])
    view = view_of(rows, qv, round=torch.tensor([4]), previous_credits=torch.tensor([[0.5, 0.2, 0.3]]))
    seen = build("all", view)
    np.testing.assert_allclose(seen["norms"][0], np.log1p([5, 2, 0]), rtol=1e-6)
    np.testing.assert_allclose(seen["similarity"][0], [[1, -0.8, 0], [-0.8, 1, 0], [0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(seen["trust"][0], [0.8, -1, 0], atol=1e-6)
    np.testing.assert_allclose(seen["credits"][0], [0.5, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(seen["loss"][0], [np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(seen["progress"][0], [0.4], rtol=1e-6)
    np.testing.assert_allclose(seen["gradients"][0], rows.sign() * rows.abs().log1p(), rtol=1e-6)


@pytest.mark.parametrize("value", [1e30, -3e38, 1e-30, 0.0])
def test_observations_stay_in_their_space_for_any_finite_submission(value):
    rows = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    rows[1:3] = value
    view = view_of(rows, torch.ones(50))
    builder = ObservationBuilder("all", 5, 4, 50, rounds=10)
    observation = {name: part[0] for name, part in builder(view).items()}
    assert observation in builder.space


def test_the_credits_part_shows_the_credits_of_the_last_round():
    env = gym.make("ByzantineAggregation-v0", **TINY, observation="credits")
    observation, _ = env.reset(seed=0)
    assert observation.tolist() == pytest.approx([1 / 6] * 6)
    action = np.array([0.5, 0.3, 0.2, 0, 0, 0], np.float32)
    assert np.array_equal(env.step(action)[0], action)


def test_symmetric_log_keeps_sign_and_order():
    values = torch.tensor([-3e38, -1.0, -1e-30, 0.0, 1e-30, 1.0, 3e38])
    compressed = symmetric_log(values)
    assert (compressed.diff() >= 0).all()
    assert torch.equal(compressed, -compressed.flip(0))
    assert compressed.abs().max() < 100


def test_observations_do_not_depend_on_what_the_server_does_not_know():
    """Whoever is Byzantine and whatever the test data: equal submissions look equal."""
    attacks.register("test_silent", lambda: lambda gradients, byzantine, context: gradients)
    seen = []
    for attack in ("none", "test_silent"):
        simulation = Simulation.make(2, 0, task="synthetic", attack=attack, num_byzantine=7)
        if attack == "test_silent":
            simulation.workers.byzantine.fill_(False)
            x, y = simulation.setup.task.test
            object.__setattr__(
                simulation.setup,
                "task",
                type(simulation.setup.task)(
                    train=simulation.setup.task.train,
                    test=(x * 0, y * 0),
                    num_classes=simulation.setup.task.num_classes,
                    held_out=simulation.setup.task.held_out,
                ),
            )
        builder = ObservationBuilder(
            "all", 8, simulation.num_rows, simulation.num_parameters, simulation.setup.rounds
        )
        seen.append(builder(simulation.view))
    for name in PARTS:
        assert np.array_equal(seen[0][name], seen[1][name])
