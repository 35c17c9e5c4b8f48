import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch

from byzgym import agents, tasks
from byzgym.aggregation import ServerView, reputation
from byzgym.envs.observations import PARTS, ObservationBuilder, symmetric_log
from byzgym.memory import Memory
from byzgym.numerics.sketch import Sketch
from byzgym.simulation import Simulation

ID = "ByzantineAggregation-v0"
REMEMBERED = ["reputation", "history"]


def view_of(rows, qv_gradient, **fields):
    """A view with given rows [n, d] and QV gradient [d]."""
    return ServerView(
        gradients=rows[None],
        theta=torch.zeros(1, rows.shape[1]),
        learning_rate=torch.ones(1),
        qv_loss=lambda theta: (theta * qv_gradient).sum(1) + 2.0,
        **{"memory": Memory(1), **fields},
    )


def build(spec, view, pool_size=2, pooling="blocks"):
    n, d = view.gradients.shape[1:]
    return ObservationBuilder(spec, pool_size, n, d, 10, pooling)(view)


def compressed(values):
    return np.sign(values) * np.log1p(np.abs(values))


@pytest.mark.parametrize("rejected", [[], [1, 3, 5, 6]])
def test_means_of_blocks_by_hand(rejected):
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


@pytest.mark.parametrize("size", [3, 5, 1])
def test_sketches_by_hand(size):
    """The unit is the entry of root mean square size of a sketch as long as the median submission."""
    rows = torch.tensor([[3.0, 4.0, 0, 0, 0], [6, 8, 0, 0, 0], [0, 0, 0, 30, 40]])
    qv = torch.tensor([1.0, 1, -1, -3, 2])
    expected = Sketch(5, size)(torch.cat([rows, qv[None]])).numpy() / (10 / size**0.5)
    seen = build("pooled", view_of(rows, qv), size, "sketch")[0]
    np.testing.assert_allclose(seen, compressed(expected), rtol=1e-6)


@pytest.mark.parametrize("pooling", ["sketch", "blocks"])
def test_pooled_does_not_depend_on_the_scale(pooling):
    generator = torch.Generator().manual_seed(0)
    rows, qv = torch.randn(5, 40, generator=generator), torch.randn(40, generator=generator)
    first = build("pooled", view_of(rows, qv), 8, pooling)
    for factor in (1e-20, 1e-25, 1e-29, 1e29):
        scaled = build("pooled", view_of(rows * factor, qv * factor), 8, pooling)
        np.testing.assert_allclose(first, scaled, rtol=1e-4)


def test_sums_that_overflow_keep_their_sign():
    rows = torch.full((3, 40), 3e38)
    rows[0] *= Sketch(40, 2).signs
    rows[1] *= -Sketch(40, 2).signs
    seen = build("pooled", view_of(rows, torch.ones(40)), 2, "sketch")[0]
    assert (seen[0] > 1).all()
    assert np.array_equal(seen[1], -seen[0])
    assert (np.abs(seen[2]) < seen[0]).all()


def test_two_environments_have_one_sketch():
    arguments = {"task": "synthetic", "num_workers": 4, "num_byzantine": 1}
    seen = [gym.make(ID, **arguments).reset(seed=3)[0] for _ in range(2)]
    assert np.array_equal(*seen)
    batch = gym.make_vec(ID, num_envs=2, **arguments).reset(seed=3)[0]
    np.testing.assert_allclose(batch[0], seen[0], rtol=1e-4, atol=1e-5)


def test_sketches_tell_workers_apart():
    """Of most pairs of workers, the honest one has the larger cosine with the last row."""
    simulation = Simulation.make(48, 0)
    oracle = agents.build("oracle", simulation)
    for _ in range(30):
        simulation.apply(oracle.decide(simulation.view))
    honest = ~simulation.byzantine
    pairs = honest[:, :, None] & ~honest[:, None]
    right = {}
    for pooling in ("sketch", "blocks"):
        seen = torch.as_tensor(build("pooled", simulation.view, 128, pooling))
        cosines = torch.cosine_similarity(seen[:, :-1], seen[:, -1:], dim=2)
        right[pooling] = (cosines[:, :, None] > cosines[:, None])[pairs].float().mean()
    assert right["sketch"] > right["blocks"] + 0.1


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
    np.testing.assert_allclose(seen["age"], [5**-0.5], rtol=1e-6)
    np.testing.assert_allclose(seen["gradients"], compressed(rows.numpy()), rtol=1e-6)
    # The smaller one of two norms, 2, is their median. Zero rows are at the bound.
    ratios = [[np.log(5 / 2), np.log(5)], [0, np.log(2)], [-10, -10]]
    np.testing.assert_allclose(seen["relative_norms"], ratios, rtol=1e-5, atol=1e-6)
    # Evidence: cosines with the QV gradient, weighted by the similarity.
    evidence = [(0.8 + 0.8) / 1.8, (-0.64 - 1) / 1.8, 0]
    np.testing.assert_allclose(seen["reputation"], evidence, atol=1e-6)
    history = np.array([evidence, [0.8, -1, 0], [-0.4, -0.4, 0]] * 2).T
    np.testing.assert_allclose(seen["history"], history, atol=1e-6)


@pytest.mark.parametrize("value", [1e30, -3e38, 1e-30, 0.0])
def test_observations_are_in_their_space(value):
    rows = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    rows[1:3] = value
    for pooling in ("sketch", "blocks"):
        builder = ObservationBuilder("all", 5, 4, 50, 10, pooling)
        seen = builder(view_of(rows, torch.ones(50)))
        assert {name: part[0] for name, part in seen.items()} in builder.space


def test_means_over_rounds_by_hand():
    """A mean with rate r after two rounds is ((1 - r) first + second) / (2 - r)."""
    memory, qv = Memory(1), torch.tensor([1.0, 0.0])
    rows = [torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[-1.0, 0.0], [0.0, 3.0]])]
    views = [view_of(rows[r], qv, memory=memory, round=torch.tensor([r])) for r in (0, 1)]
    for view in [views[0]] * 3 + [views[1]] * 2:  # asking again changes nothing
        seen = {name: build(name, view)[0] for name in REMEMBERED}
    expected = [(0.9 - 1) / 1.9] * 2 + [0] + [(0.97 - 1) / 1.97] * 2 + [0]
    np.testing.assert_allclose(seen["history"], [expected, [0] * 6], atol=1e-6)
    np.testing.assert_allclose(seen["reputation"], [-0.1 / 1.9, 0], atol=1e-6)


@pytest.mark.parametrize("part", REMEMBERED)
def test_memory_follows_resets_and_snapshots(part):
    simulation = Simulation.make(2, 0, task="synthetic", attack="sign_flip")
    builder = ObservationBuilder(part, None, simulation.num_rows, simulation.num_parameters, 100)

    def play(rounds, envs=None):
        for _ in range(rounds):
            seen = builder(simulation.view)
            simulation.apply(simulation.gradients.mean(1), envs)
        return seen

    play(3)
    snapshot = simulation.snapshot()
    expected = play(3)
    simulation.reset([7, 8])
    fresh = play(2)
    simulation.restore(snapshot)
    assert np.array_equal(play(3), expected)
    simulation.reset([7], [0])
    assert np.array_equal(play(1, [0])[1], builder(simulation.view)[1])  # the other one stands still
    np.testing.assert_allclose(play(1)[0], fresh[0], rtol=1e-4, atol=1e-6)


def test_reputation_is_that_of_trust():
    one, other = (Simulation.make(2, 0, task="synthetic") for _ in range(2))
    builder = ObservationBuilder("reputation", None, one.num_rows, one.num_parameters, 100)
    for _ in range(4):
        np.testing.assert_allclose(builder(one.view), reputation(other.view), rtol=1e-5, atol=1e-6)
        for simulation in (one, other):
            simulation.apply(simulation.gradients.mean(1))


def test_looking_changes_no_run():
    """A policy with the same memory as the observation decides as it would without."""
    seeing, blind = (Simulation.make(2, 0, task="synthetic") for _ in range(2))
    builder = ObservationBuilder("all", None, seeing.num_rows, seeing.num_parameters, 100)
    for round in range(4):
        for simulation in (seeing, blind):
            if simulation is seeing and round != 2:
                builder(simulation.view)
            simulation.apply(agents.build("trust", simulation).decide(simulation.view))
    assert torch.equal(seeing.view.theta, blind.view.theta)


def test_symmetric_log_keeps_sign_and_order():
    values = torch.tensor([-3e38, -1.0, -1e-30, 0.0, 1e-30, 1.0, 3e38])
    assert (symmetric_log(values).diff() >= 0).all()
    assert torch.equal(symmetric_log(values), -symmetric_log(values).flip(0))


def test_credits_are_those_of_the_last_round():
    env = gym.make(ID, task="synthetic", num_workers=4, num_byzantine=1, observation="credits")
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
