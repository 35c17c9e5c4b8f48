"""Environments and agents inside modes of torch that a training job may be in, and after pickle."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence

from byzgym import agents
from byzgym.aggregation import ServerView

ID = "ByzantineAggregation-v0"
TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "rounds": 5, "pool_size": 8}
DRAWN = {"attack": ["gaussian", "alie"], "roles": "randomized:period=2"}
REMEMBERED = {"momentum": 0.5, "worker_momentum": 0.5}
MODES = {
    "inference": torch.inference_mode,
    "bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "default_device": lambda: torch.device("meta"),
}
both = pytest.mark.parametrize("vector", [False, True], ids=["single", "vector"])


def make(vector, **arguments):
    arguments = {**TINY, **DRAWN, **REMEMBERED, **arguments}
    return gym.make_vec(ID, num_envs=3, **arguments) if vector else gym.make(ID, **arguments)


def whole_episode(env, name="gaa:window=2"):
    """Let an agent play; the last information has test metrics."""
    agent = agents.make_from(name).bind(env)
    seen = [env.reset(seed=0)]
    for _ in range(TINY["rounds"]):
        seen.append(env.step(agent.predict(seen[-1][0])[0]))
    return seen


def play(env, steps=3):
    action = np.full(env.action_space.shape, 1 / 6, np.float32)
    return [env.step(action) for _ in range(steps)]


def begin_anew(env):
    return env.reset(), play(env)


def differentiate(env):
    view = env.unwrapped.view
    theta = view.theta.clone().requires_grad_()
    (view.qv_loss(theta) * view.learning_rate * view.qv_value).sum().backward()
    return theta.grad.numpy()


def restore(env):
    env.reset()
    with torch.inference_mode():
        env.unwrapped.simulation.restore(env.unwrapped.simulation.snapshot())
    return play(env)


@both
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("agent", "model"), [("gaa:window=2", "mlp:8"), ("krum:num_byzantine=1", "softmax")])
def test_modes_change_nothing(vector, mode, agent, model):
    expected = whole_episode(make(vector, model=model, observation="all"), agent)
    with MODES[mode]():
        found = whole_episode(make(vector, model=model, observation="all"), agent)
    assert data_equivalence(found, expected, exact=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", sorted({*agents.names()} - {"fixed", "gaa", "model"}))
def test_modes_change_no_decision(name, mode):
    env = make(True)
    env.reset(seed=0)
    simulation, view = env.unwrapped.simulation, env.unwrapped.view
    expected = agents.build(name, simulation).decide(view).update
    with MODES[mode]():
        assert torch.equal(agents.build(name, simulation).decide(view).update, expected)


@both
@pytest.mark.parametrize("go_on", [begin_anew, differentiate, restore])
def test_what_is_made_in_inference_mode_goes_on(vector, go_on):
    expected = make(vector)
    whole_episode(expected)
    with torch.inference_mode():
        env = make(vector)
        whole_episode(env)
    assert data_equivalence(go_on(env), go_on(expected), exact=True)


@both
def test_an_environment_survives_pickle(vector):
    env = make(vector)
    env.reset(seed=0)
    play(env)
    again = pickle.loads(pickle.dumps(env))
    for go_on in (play, begin_anew):
        assert data_equivalence(go_on(env), go_on(again), exact=True)


def test_a_view_of_a_training_job():
    """Gradients with a graph, and a learning rate that is a number."""
    rows, target = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0)), torch.ones(4)

    def credits(rows, rate):
        view = ServerView(rows, torch.zeros(1, 4), rate, lambda theta: (theta - target).square().sum(1))
        assert view.learning_rate.tolist() == torch.tensor([0.3]).tolist()
        return agents.make("gaa").credits(view)

    expected = credits(rows, torch.tensor([0.3]))
    for rate in (0.3, torch.tensor(0.3, dtype=torch.float64)):
        assert torch.equal(credits(rows.clone().requires_grad_() * 1, rate), expected)
