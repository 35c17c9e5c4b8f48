"""Environments inside inference mode, in threads, and after pickle."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence

ID = "ByzantineAggregation-v0"
TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "rounds": 10, "pool_size": 8}


def make_single(**arguments):
    return gym.make(ID, **{**TINY, **arguments})


def make_vector(**arguments):
    return gym.make_vec(ID, num_envs=3, **{**TINY, **arguments})


def play(env, steps):
    action = np.full(env.action_space.shape, 1 / 6, np.float32)
    return tuple(env.step(action) for _ in range(steps))


def begin_anew_and_play(env):
    return env.reset(), *play(env, 3)


def differentiate(env):
    view = env.unwrapped.view
    theta = view.theta.clone().requires_grad_()
    view.qv_loss(theta).sum().backward()
    return theta.grad.numpy()


@pytest.mark.parametrize("make", [make_single, make_vector])
@pytest.mark.parametrize("go_on", [lambda env: play(env, 3), begin_anew_and_play, differentiate])
def test_an_environment_used_in_inference_mode_can_be_used_outside(make, go_on):
    arguments = {"momentum": 0.5, "worker_momentum": 0.5, "roles": {"name": "randomized", "period": 2}}
    expected = make(**arguments)
    with torch.inference_mode():
        env = make(**arguments)
        assert data_equivalence(env.reset(seed=0), expected.reset(seed=0), exact=True)
        assert data_equivalence(play(env, 3), play(expected, 3), exact=True)
    assert data_equivalence(go_on(env), go_on(expected), exact=True)


def test_environments_in_threads_draw_what_they_draw_alone():
    def observations(seeds):
        env = make_single(attack="none")
        return np.array([env.reset(seed=seed)[0] for seed in seeds])

    parts = [range(60), range(100, 160)]
    state = torch.get_rng_state()
    expected = [observations(seeds) for seeds in parts]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(observations, parts))
    assert np.array_equal(found, expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("make", [make_single, make_vector])
def test_an_environment_survives_pickle_and_plays_on(make):
    env = make(attack=["gaussian", "alie"], roles={"name": "randomized", "period": 2}, momentum=0.5)
    env.reset(seed=0)
    play(env, 3)
    again = pickle.loads(pickle.dumps(env))
    assert data_equivalence(play(env, 5), play(again, 5), exact=True)
    assert data_equivalence(env.reset(), again.reset(), exact=True)
    assert data_equivalence(play(env, 3), play(again, 3), exact=True)
