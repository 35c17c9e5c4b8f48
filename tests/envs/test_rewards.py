"""Rewards: their forms and bounds, and the samples on which they are computed."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch

from byzgym.envs.rewards import LARGEST_LOG_DROP, WORST_REWARD, log_drop, relative_drop

TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "rounds": 10}


def make(**arguments):
    return gym.make("ByzantineAggregation-v0", **{**TINY, **arguments})


def play(env, seed=0):
    """The rewards of an episode with equal credits, the QV losses, the losses behind the rewards, the end."""
    info = env.reset(seed=seed)[1]
    simulation, done, rewards = env.unwrapped.simulation, False, []
    qv, losses = [info["qv_loss"]], [float(simulation.reward_loss())]
    while not done:
        _, reward, terminated, truncated, info = env.step(np.ones(6, np.float32))
        done = terminated or truncated
        rewards.append(reward)
        qv.append(info["qv_loss"])
        losses.append(float(simulation.reward_loss()))
    return np.array(rewards), np.array(qv), np.array(losses), terminated


def test_relative_drop_by_hand():
    before, after = torch.tensor([2.0, 1.0, 0.0, 0.0]), torch.tensor([1.0, 99.0, 1.0, 0.0])
    assert relative_drop(before, after).tolist() == [0.5, WORST_REWARD, WORST_REWARD, 0]


def test_log_drop_by_hand():
    before = torch.tensor([2.0, 1.0, 1e30, 0.0, 0.0, 1.0])
    after = torch.tensor([1.0, 2.0, 0.0, 1e30, 0.0, np.exp(9.0)])
    expected = [np.log(2), -np.log(2), LARGEST_LOG_DROP, WORST_REWARD, 0, -9]
    assert log_drop(before, after).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("reward", ["qv", "held_out"])
@pytest.mark.parametrize("attack", ["none", "ipm:epsilon=3.0"])
def test_log_rewards_add_up(reward, attack):
    rewards, _, losses, terminated = play(make(reward=reward, reward_form="log", attack=attack))
    assert not terminated
    assert (rewards < 0).any() == (attack != "none")
    assert rewards.sum() == pytest.approx(np.log(losses[0]) - np.log(losses[-1]), abs=1e-5)


@pytest.mark.parametrize("arguments", [{"reward_size": 5}, {"reward": "held_out"}])
def test_the_reward_is_of_other_samples_than_the_qv_loss(arguments):
    rewards, qv, losses, _ = play(make(**arguments, attack="none"))
    np.testing.assert_allclose(rewards, (losses[:-1] - losses[1:]) / losses[:-1], atol=1e-6)
    assert (np.abs(qv - losses) > 1e-3).all()
    qv_drop = (qv[:-1] - qv[1:]) / qv[:-1]
    assert np.abs(rewards - qv_drop).max() > 1e-3


@pytest.mark.parametrize("vector", [False, True])
def test_a_reward_of_the_qv_samples_has_no_size(vector):
    made = partial(gym.make_vec, num_envs=2) if vector else gym.make
    arguments = {**TINY, "reward": "qv", "reward_size": 5}
    with pytest.raises(ValueError, match="got reward='qv' and reward_size=5"):
        made("ByzantineAggregation-v0", **arguments)


def test_by_default_it_is_of_the_qv_loss():
    rewards, qv, losses, _ = play(make(attack="none"))
    np.testing.assert_allclose(qv, losses)
    np.testing.assert_allclose(rewards, (qv[:-1] - qv[1:]) / qv[:-1], atol=1e-6)


@pytest.mark.parametrize("form", ["relative", "log"])
def test_divergence_is_that_of_the_qv_loss(form):
    env = make(attack="none", reward_size=5, reward_form=form)
    env.reset(seed=0)
    simulation = env.unwrapped.simulation
    simulation.initial_loss.mul_(1e-6)
    _, reward, terminated, _, info = env.step(np.ones(6, np.float32))
    assert terminated
    assert info["diverged"]
    assert reward == WORST_REWARD


def test_reward_samples_are_not_observed():
    """Other labels of the reward samples change rewards and nothing else."""
    seen = []
    for shift in (0, 1):
        env = make(observation="all", reward_size=5, attack=["ipm", "label_flip"])
        env.reset(seed=0)
        reward_set = env.unwrapped.simulation.reward_set
        x, y = reward_set._held_out
        reward_set._held_out = x, (y + shift) % 3
        seen.append([env.step(np.ones(6, np.float32)) for _ in range(3)])
    for (one, reward, *_, info), (other, other_reward, *_, other_info) in zip(*seen, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
        assert info["qv_loss"] == other_info["qv_loss"]
        assert reward != other_reward


def test_a_bad_form_is_named():
    with pytest.raises(ValueError, match="reward_form must be one of 'relative', 'log', got 'exp'"):
        make(reward_form="exp")
