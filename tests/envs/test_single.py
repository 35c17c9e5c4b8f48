"""The Gymnasium environment: both checkers, spaces, rewards, information, episodes, rendering."""

import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import byzgym
from byzgym import attacks
from byzgym.envs.rewards import WORST_REWARD, relative_drop

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
]


@pytest.mark.parametrize("arguments", CONFIGURATIONS)
def test_gymnasium_checker_passes_without_a_warning(arguments):
    env = gym.make("ByzantineAggregation-v0", disable_env_checker=True, **{**TINY, **arguments})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=True)


def test_gymnasium_checker_passes_the_default_environment_with_its_rendering():
    env = gym.make("ByzantineAggregation-v0", render_mode="rgb_array", rounds=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The checker makes an environment for every render mode; "human" would open a window.
        warnings.filterwarnings("ignore", message=".*non-interactive.*")
        check_env(env.unwrapped)


@pytest.mark.parametrize("arguments", CONFIGURATIONS)
def test_stable_baselines3_checker_warns_only_of_what_is_unavoidable(arguments):
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


def test_importing_registers_and_so_does_the_module_prefix():
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


def test_two_instances_with_one_seed_give_identical_rollouts():
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


def test_an_episode_ends_after_its_rounds_with_test_metrics():
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


def test_reward_is_the_relative_drop_of_the_qv_loss():
    env = make(attack="none")
    _, info = env.reset(seed=0)
    loss = info["qv_loss"]
    for _ in range(5):
        _, reward, _, _, info = env.step(uniform(env))
        assert reward == pytest.approx((loss - info["qv_loss"]) / loss, abs=1e-6)
        loss = info["qv_loss"]
    assert relative_drop(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([1.0, 99.0, 1.0])).tolist() == [
        0.5,
        WORST_REWARD,
        WORST_REWARD,
    ]


@pytest.mark.parametrize("value", [1e30, 3e38])
def test_divergence_ends_the_episode_with_the_worst_reward(value):
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


def test_nan_submissions_are_rejected_and_lose_their_credit():
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


def test_actions_are_normalised_onto_the_simplex():
    env = make(attack="none")
    env.reset(seed=0)
    point = np.array([0.5, 0.25, 0.125, 0.0625, 0.03125, 0.03125], np.float32)
    for action, credits in [
        (point, point),
        (point / 2, point),
        (point * 7, point),
        (np.zeros(6), np.full(6, 1 / 6)),
        (np.eye(6)[2], np.eye(6)[2]),
    ]:
        info = env.step(action.astype(np.float32))[4]
        np.testing.assert_allclose(info["credits"], credits, rtol=1e-6)
    assert np.array_equal(env.step(point)[4]["credits"], point)  # to the last bit


def test_null_slot_lets_credits_sum_to_less_than_one():
    env = make(attack="none", action="null_slot")
    env.reset(seed=0)
    info = env.step(np.array([0.1, 0.2, 0, 0, 0, 0, 0.7], np.float32))[4]
    np.testing.assert_allclose(info["credits"], [0.1, 0.2, 0, 0, 0, 0], rtol=1e-6)
    info = env.step(np.array([0, 0, 0, 0, 0, 0, 1], np.float32))[4]
    assert info["update_norm"] == 0


def test_credits_weigh_the_gradients():
    env = make()
    env.reset(seed=0)
    gradients = env.unwrapped.view.gradients[0].clone()
    theta = env.unwrapped.view.theta[0].clone()
    credits = torch.tensor([0.5, 0.3, 0.2, 0, 0, 0])
    env.step(credits.numpy())
    rate = env.unwrapped.view.learning_rate[0]
    torch.testing.assert_close(env.unwrapped.view.theta[0], theta - rate * (credits @ gradients))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(5, np.float32), r"action must have shape \(6,\) per environment, got \(5,\)"),
        (np.zeros((1, 6), np.float32), "action must have shape"),
        (np.float32(1), "action must have shape"),
        (np.array([np.nan, 1, 1, 1, 1, 1], np.float32), "action must be finite and not negative, got"),
        (np.array([np.inf, 1, 1, 1, 1, 1], np.float32), "action must be finite and not negative"),
        (np.array([-0.5, 1, 1, 1, 1, 1], np.float32), "action must be finite and not negative"),
    ],
)
def test_bad_actions_are_named_and_change_nothing(action, message):
    env = make()
    env.reset(seed=0)
    state = env.unwrapped.simulation.snapshot()["state"]
    with pytest.raises(ValueError, match=message):
        env.unwrapped.step(action)
    after = env.unwrapped.simulation.snapshot()["state"]
    for owner in state:
        for name, value in state[owner].items():
            assert torch.equal(value, after[owner][name]), (owner, name)
    assert torch.equal(env.unwrapped.view.round, torch.zeros(1, dtype=torch.int64))


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


def test_byzantine_marks_the_workers_of_the_round_just_played():
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


def test_render_ansi_marks_byzantine_workers():
    env = make(render_mode="ansi")
    _, info = env.reset(seed=0)
    env.step(uniform(env))
    lines = env.render().splitlines()
    assert "round    1" in lines[0]
    assert len(lines) == 7
    for worker, line in enumerate(lines[1:]):
        assert (" x " in line) == info["byzantine"][worker]
        assert "0.167 #####" in line


def test_render_rgb_array_is_a_picture_that_changes():
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    env.step(np.eye(6, dtype=np.float32)[0])
    second = env.render()
    assert first.dtype == np.uint8
    assert first.shape == second.shape == (450, 800, 3)
    assert not np.array_equal(first, second)


def test_unknown_render_mode_and_observation_are_named():
    with pytest.raises(ValueError, match="render_mode must be None or one of"):
        byzgym.envs.ByzantineAggregationEnv(**TINY, render_mode="hologram")
    with pytest.raises(ValueError, match="observation must be one of 'pooled'"):
        make(observation="nope")
    with pytest.raises(ValueError, match="observation must be one of 'pooled'"):
        make(observation=["norms", "nope"])
    with pytest.raises(ValueError, match="observation must be one of"):
        make(observation=[])
    with pytest.raises(ValueError, match="action must be one of 'credits', 'null_slot'"):
        make(action="nope")
    with pytest.raises(ValueError, match="pool_size must be an integer from 1 to"):
        make(pool_size=10**6)
    with pytest.raises(ValueError, match="evaluate_every must be an integer of at least 1"):
        make(evaluate_every=0)
