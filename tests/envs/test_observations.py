import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch

from byzgym import tasks
from byzgym.aggregation import ServerView
from byzgym.envs.observations import PARTS, ObservationBuilder, symmetric_log
from byzgym.simulation import Simulation


def view_of(rows, qv_gradient, **fields):
    """A view with given rows [n, d] and QV gradient [d]."""
    return ServerView(
        gradients=rows[None],
        theta=torch.zeros(1, rows.shape[1]),
        learning_rate=torch.ones(1),
        qv_loss=lambda theta: (theta * qv_gradient).sum(1) + 2.0,
        **fields,
    )


def build(spec, view, pool_size=2):
    n, d = view.gradients.shape[1:]
    return ObservationBuilder(spec, pool_size, n, d, rounds=10)(view)


def compressed(values):
    return np.sign(values) * np.log1p(np.abs(values))


@pytest.mark.parametrize("rejected", [[], [1, 3, 5, 6]])
def test_pooled_by_hand(rejected):
    """Rejected rows do not count for the median, even if they are most of the rows."""
    received = torch.tensor([[3.0, 4.0, 0.0, 0.0], [6.0, 8.0, 0.0, 0.0], [0.0, 0.0, 30.0, 40.0]])
    mask = torch.zeros(3 + len(rejected), dtype=torch.bool)
    mask[rejected] = True
    rows = torch.zeros(len(mask), 4)
    rows[~mask] = received
    expected = np.zeros((len(mask) + 1, 2))
    expected[np.append(~mask, True)] = [[3.5, 0], [7, 0], [0, 35], [1, -2]]
    unit = 10 / 4**0.5  # the median norm over the root of d
    view = view_of(rows, torch.tensor([1.0, 1.0, -1.0, -3.0]), rejected=mask[None])
    np.testing.assert_allclose(build("pooled", view)[0], compressed(expected / unit), rtol=1e-6)


def test_pooled_does_not_depend_on_the_scale():
    generator = torch.Generator().manual_seed(0)
    rows, qv = torch.randn(5, 40, generator=generator), torch.randn(40, generator=generator)
    first = build("pooled", view_of(rows, qv), 8)
    for factor in (1e-20, 1e-25, 1e-29, 1e29):
        np.testing.assert_allclose(first, build("pooled", view_of(rows * factor, qv * factor), 8), rtol=1e-4)


def test_zero_rows_do_not_set_the_pooled_unit():
    rows, qv = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [6.0, 8.0]]), torch.tensor([1.0, -1.0])
    unit = 5 / 2**0.5  # the smaller one of two is their median
    expected = np.array([[0, 0], [3, 4], [0, 0], [6, 8], [1, -1]]) / unit
    np.testing.assert_allclose(build("pooled", view_of(rows, qv))[0], compressed(expected), rtol=1e-6)
    nothing = build("pooled", view_of(torch.zeros(4, 2), qv))[0]
    np.testing.assert_allclose(nothing, compressed([[0, 0]] * 4 + [[1, -1]]), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e30, 1.0, 1e-30])
def test_other_parts_by_hand(scale):
    rows, qv = scale * torch.tensor([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0]]), scale * torch.tensor([0.0, 1.0])
    view = view_of(rows, qv, round=torch.tensor([4]), previous_credits=torch.tensor([[0.5, 0.2, 0.3]]))
    seen = {name: part[0] for name, part in build("all", view).items()}
    np.testing.assert_allclose(seen["norms"], np.log1p(np.float32([5, 2, 0]) * scale), rtol=1e-5)
    np.testing.assert_allclose(seen["similarity"], [[1, -0.8, 0], [-0.8, 1, 0], [0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(seen["trust"], [0.8, -1, 0], atol=1e-6)
    np.testing.assert_allclose(seen["credits"], [0.5, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(seen["loss"], [np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(seen["progress"], [0.4], rtol=1e-6)
    np.testing.assert_allclose(seen["gradients"], compressed(rows.numpy()), rtol=1e-6)


@pytest.mark.parametrize("value", [1e30, -3e38, 1e-30, 0.0])
def test_observations_are_in_their_space(value):
    rows = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    rows[1:3] = value
    builder = ObservationBuilder("all", 5, 4, 50, rounds=10)
    assert {name: part[0] for name, part in builder(view_of(rows, torch.ones(50))).items()} in builder.space


def test_symmetric_log_keeps_sign_and_order():
    values = torch.tensor([-3e38, -1.0, -1e-30, 0.0, 1e-30, 1.0, 3e38])
    assert (symmetric_log(values).diff() >= 0).all()
    assert torch.equal(symmetric_log(values), -symmetric_log(values).flip(0))


def test_credits_are_those_of_the_last_round():
    env = gym.make(
        "ByzantineAggregation-v0", task="synthetic", num_workers=4, num_byzantine=1, observation="credits"
    )
    assert env.reset(seed=0)[0].tolist() == [0.25] * 4
    action = np.array([0.5, 0.3, 0.2, 0], np.float32)
    assert np.array_equal(env.step(action)[0], action)


@pytest.mark.parametrize("spec", [["norms", "norms"], (), [["norms"]], None, 3])
def test_bad_parts_are_refused(spec):
    with pytest.raises(ValueError, match="observation must be one of 'pooled', "):
        ObservationBuilder(spec, None, 4, 50, 10)


def test_masks_and_test_data_are_not_seen():
    x, y = tasks.make("synthetic").test
    blind = dataclasses.replace(tasks.make("synthetic"), test=(x * 0, y * 0))
    tasks.register("blind", lambda: blind)
    seen = []
    for task in ("synthetic", "blind"):
        simulation = Simulation.make(2, 0, task=task, attack="none", num_byzantine=7)
        if task == "blind":
            simulation.workers.byzantine.fill_(False)
        builder = ObservationBuilder("all", 8, simulation.num_rows, simulation.num_parameters, rounds=100)
        seen.append(builder(simulation.view))
    for name in PARTS:
        assert np.array_equal(seen[0][name], seen[1][name])
