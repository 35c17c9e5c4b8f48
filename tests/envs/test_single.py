"""The Gymnasium environment: both checkers, spaces, rewards, information, episodes, rendering."""

import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import byzgym
from byzgym import attacks
from byzgym.envs import ByzantineAggregationEnv
from byzgym.envs.rewards import WORST_REWARD
from byzgym.validation import with_notes

ID = "ByzantineAggregation-v0"
TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "rounds": 10, "pool_size": 8}


def make(**arguments):
    return gym.make("ByzantineAggregation-v0", **{**TINY, **arguments})


def uniform(env):
    return np.full(env.action_space.shape, 1 / env.action_space.shape[0], np.float32)


CONFIGURATIONS = [
    {},
    {"observation": "all"},
    {"observation": ["norms", "credits"], "action": "null_slot"},
    {"secure_group_size": 3},
    {"num_byzantine": (0, 5), "roles": {"name": "randomized", "period": 2}},
    {"action": "rule", "rules": ["median", "krum:num_byzantine=1"]},
    {"action": "update"},
]


@pytest.mark.parametrize("arguments", CONFIGURATIONS)
def test_gymnasium_checker_warns_of_nothing(arguments):
    env = gym.make("ByzantineAggregation-v0", disable_env_checker=True, **{**TINY, **arguments})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # An update may be any vector, so its space cannot be normalized.
        warnings.filterwarnings("ignore", message=".*symmetric and normalized")
        check_env(env.unwrapped, skip_render_check=True)


def test_gymnasium_checker_with_rendering():
    env = gym.make("ByzantineAggregation-v0", render_mode="rgb_array", rounds=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The checker makes an environment for every render mode; "human" would open a window.
        warnings.filterwarnings("ignore", message=".*non-interactive.*")
        check_env(env.unwrapped)


@pytest.mark.parametrize("arguments", CONFIGURATIONS)
def test_sb3_checker_warns_of_what_is_unavoidable(arguments):
    unavoidable = (
        "symmetric and normalized",  # a credit is not negative; SoftmaxCredits has a symmetric space
        "unconventional shape",  # rows are workers; the policies of byzgym.integrations.sb3 expect that
    )
    env = make(**arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sb3_check_env(env, warn=True)
    messages = [str(warning.message) for warning in caught]
    assert [m for m in messages if not any(part in m for part in unavoidable)] == []


def test_the_module_prefix_registers():
    assert "ByzantineAggregation-v0" in gym.registry
    env = gym.make("byzgym:ByzantineAggregation-v0", **TINY)
    assert isinstance(env.unwrapped, byzgym.envs.ByzantineAggregationEnv)


def test_spec_survives_json():
    env = make(attack={"name": "ipm", "epsilon": 1.0}, num_byzantine=(1, 3), learning_rate={"initial": 0.1})
    text = env.spec.to_json()
    json.loads(text)
    again = gym.make(EnvSpec.from_json(text))
    assert again.spec.kwargs["attack"] == {"name": "ipm", "epsilon": 1.0}
    first, _ = env.reset(seed=5)
    second, _ = again.reset(seed=5)
    assert np.array_equal(first, second)


def test_one_seed_gives_identical_rollouts():
    traces = []
    for seed in (1, 1, 2):
        env = gym.make("ByzantineAggregation-v0", rounds=20)
        env.action_space.seed(0)
        trace = [env.reset(seed=seed)]
        trace.extend(env.step(env.action_space.sample()) for _ in range(20))
        trace.append(env.reset())
        traces.append(trace)
    assert data_equivalence(tuple(map(tuple, traces[0])), tuple(map(tuple, traces[1])), exact=True)
    assert not np.array_equal(traces[0][0][0], traces[2][0][0])


def test_an_episode_ends_with_test_metrics():
    env = make(evaluate_every=4, attack="none")
    env.reset(seed=0)
    evaluated = []
    for round in range(1, 11):
        _, reward, terminated, truncated, info = env.step(uniform(env))
        assert type(reward) is float
        assert type(terminated) is bool
        assert type(truncated) is bool
        assert not terminated
        assert truncated == (round == 10)
        if "accuracy" in info:
            evaluated.append(round)
            assert 0 <= info["accuracy"] <= info["top3_accuracy"] <= 1
            assert info["test_loss"] > 0
    assert evaluated == [4, 8, 10]


def test_the_success_of_a_backdoor_is_among_the_test_metrics():
    env = make(evaluate_every=4, attack=["backdoor:size=2", "zero"])
    seen = set()
    for seed in range(6):
        env.reset(seed=seed)
        for _ in range(4):
            observation, *_, info = env.step(uniform(env))
        assert ("attack_success_rate" in info) == (info["attack"] == "backdoor:size=2")
        assert 0 <= info.get("attack_success_rate", 0) <= 1
        seen.add(info["attack"])
    assert len(seen) == 2
    assert observation in env.observation_space


def test_a_step_before_the_first_reset_is_refused():
    env = make().unwrapped
    with pytest.raises(ResetNeeded):
        env.step(uniform(env))
    env.reset(seed=0)
    env.step(uniform(env))


def test_a_reward_is_on_one_set_of_samples():
    env = make(attack="none", qv_period=1)
    env.reset(seed=0)
    simulation, rewards, mixed = env.unwrapped.simulation, [], []
    for _ in range(5):
        x, y = simulation.quasi_validation.x, simulation.quasi_validation.y
        before = simulation.engine.loss(env.unwrapped.view.theta, x, y)
        _, reward, _, _, info = env.step(uniform(env))
        after = simulation.engine.loss(env.unwrapped.view.theta, x, y)
        assert reward == pytest.approx(float((before - after) / before), abs=1e-6)
        assert info["qv_loss"] == pytest.approx(float(simulation.qv_loss()))
        rewards.append(reward)
        mixed.append(float(1 - info["qv_loss"] / before))
    assert not np.allclose(rewards, mixed, atol=0.01), "the samples have not changed"


@pytest.mark.parametrize("value", [1e30, 3e38])
def test_divergence_ends_the_episode(value):
    attacks.register("test_explode", lambda value: lambda g, b, c: g.new_full((), value).expand_as(g))
    env = make(attack={"name": "test_explode", "value": value})
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(uniform(env))
    assert (reward, terminated, truncated, info["diverged"]) == (WORST_REWARD, True, False, True)
    assert np.isfinite(info["qv_loss"])
    assert np.isfinite(info["accuracy"])
    observation, info = env.reset()
    assert observation in env.observation_space
    assert not info["diverged"]


def test_a_refused_update_in_the_last_round():
    attacks.register("test_explode", lambda: lambda g, b, c: g.new_full((), 3e38).expand_as(g))
    env = make(attack="test_explode", learning_rate=100.0, rounds=1)
    _, info = env.reset(seed=0)
    loss = info["qv_loss"]
    _, reward, terminated, truncated, info = env.step(info["byzantine"].astype(np.float32))
    assert (reward, terminated, truncated, info["diverged"]) == (WORST_REWARD, True, False, True)
    assert info["qv_loss"] == loss
    assert not env.reset(seed=1)[1]["diverged"]


def test_rejected_submissions_lose_their_credit():
    attacks.register("test_nan", lambda: lambda g, b, c: g.new_full((), torch.nan).expand_as(g))
    env = make(attack="test_nan")
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    rejected = info["rejected"]
    assert np.array_equal(rejected, info["byzantine"])
    _, _, terminated, _, info = env.step(uniform(env))
    assert not terminated
    np.testing.assert_allclose(info["credits"], np.where(rejected, 0, 0.25))
    # All credit on rejected rows: uniform over the others.
    _, _, _, _, info = env.step(rejected.astype(np.float32))
    np.testing.assert_allclose(info["credits"], np.where(rejected, 0, 0.25))


def test_observations_and_infos_are_fresh_arrays():
    env = make(observation="all")
    kept = [env.reset(seed=0), *((o, i) for o, _, _, _, i in (env.step(uniform(env)) for _ in range(3)))]
    copies = [({k: v.copy() for k, v in o.items()}, dict(i)) for o, i in kept]
    for observation, info in kept:
        for array in (*observation.values(), info["credits"], info["byzantine"], info["rejected"]):
            array[...] = 1
    after = env.step(uniform(env))[0]
    assert after in env.observation_space
    env.reset(seed=0)
    for expected, _ in copies[1:]:
        again = env.step(uniform(env))[0]
        assert all(np.array_equal(again[name], expected[name]) for name in expected)


def test_byzantine_marks_the_round_just_played():
    env = make(roles={"name": "randomized", "period": 1, "probability": 0.5}, rounds=30)
    _, info = env.reset(seed=0)
    changes = 0
    before = info["byzantine"]
    for _ in range(20):
        now = env.unwrapped.simulation.byzantine_rows[0].numpy().copy()
        info = env.step(uniform(env))[4]
        assert np.array_equal(info["byzantine"], now)
        changes += not np.array_equal(now, before)
        before = now
    assert changes > 5


@pytest.mark.parametrize("vector", [False, True])
def test_reset_options_concern_one_episode(vector):
    arguments = {**TINY, "attack": "none"}
    env = gym.make_vec(ID, num_envs=2, **arguments) if vector else gym.make(ID, **arguments)
    for options, attack, number in (
        ({"attack": "ipm:epsilon=2.0", "num_byzantine": 4}, "ipm:epsilon=2.0", 4),
        ({}, "none", 2),
        ({"num_byzantine": (3, 3)}, "none", 3),
        ({"attack": ["zero"]}, "zero", 2),
        ({"attack": "ipm:epsilon=2.0"}, "ipm:epsilon=2.0", 2),
    ):
        _, info = env.reset(seed=0, options=options)
        assert set(np.atleast_1d(info["attack"])) == {attack}
        assert set(np.atleast_2d(info["byzantine"]).sum(1)) == {number}
    assert len(env.unwrapped.simulation.workers.attacks) == 3  # met again, an attack is not added again


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"attack": "nope"}, "unknown attack 'nope'"),
        ({"atack": "ipm"}, "did you mean 'attack'"),
        ({"num_byzantine": 6}, "num_byzantine must be an integer from 0 to 5"),
        ("ipm", "options must be a mapping"),
    ],
)
def test_bad_reset_options_change_nothing(options, error):
    env, twin = make().unwrapped, make().unwrapped
    for one in (env, twin):
        one.reset(seed=0)
    with pytest.raises((ValueError, TypeError), match=error):
        env.reset(options=options)
    for one in (env, twin):
        one.step(uniform(one))
    assert torch.equal(env.view.theta, twin.view.theta)


@pytest.mark.parametrize(("times", "diverges"), [(999, False), (1001, True)])
def test_a_loss_of_1000_times_is_divergence(times, diverges):
    env = make(attack="none").unwrapped
    env.reset(seed=0)
    loss = env.step(uniform(env))[4]["qv_loss"]
    env.reset(seed=0)
    env.simulation.initial_loss.fill_(loss / times)
    _, reward, terminated, truncated, info = env.step(uniform(env))
    assert info["qv_loss"] == loss
    assert (terminated, info["diverged"], reward == WORST_REWARD) == (diverges, diverges, diverges)
    assert not truncated


def two_arguments(first, second):
    return first


@pytest.mark.parametrize(
    ("argument", "what"),
    [
        ("attack", "attack"),
        ("roles", "role function"),
        ("partition", "partition"),
        ("qv_source", "qv_source"),
    ],
)
@pytest.mark.parametrize("make_env", [make, lambda **arguments: gym.make_vec(ID, **{**TINY, **arguments})])
def test_a_wrong_signature_is_named(make_env, argument, what):
    """Also where gymnasium.make turns a TypeError into another one."""
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given") as caught:
        make_env(**{argument: two_arguments})
    assert f"(raised by {what} two_arguments)" in with_notes(caught.value)


def test_a_wrong_argument_keeps_its_error():
    with pytest.raises(TypeError, match="did you mean 'attack'") as caught:
        ByzantineAggregationEnv(atack="ipm")
    assert caught.value.__cause__ is None
