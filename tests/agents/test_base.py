"""bind and predict: agents in Gymnasium environments and in stable-baselines3's evaluation."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from agent_cases import ID, TINY
from gymnasium.wrappers import FlattenObservation, TimeLimit
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from byzgym import agents, aggregation
from byzgym.aggregation import Decision, NotLinearError
from byzgym.wrappers import SoftmaxCredits

NAMES = tuple(name for name in agents.names() if name != "model")  # which reads a file
ARGUMENTS = {**TINY, "num_workers": 7, "num_byzantine": 2, "attack": "sign_flip"}


def arguments_for(name):
    return {**ARGUMENTS, "action": "null_slot" if agents.make(name).linear else "update"}


@pytest.mark.parametrize("name", NAMES)
def test_predict_plays_what_the_agent_decides(name):
    env = gym.make(ID, **arguments_for(name))
    twin = gym.make(ID, **ARGUMENTS).unwrapped.simulation
    agent, free = agents.make(name).bind(env), agents.build(name, twin)
    observation, _ = env.reset(seed=3)
    twin.reset([int(gym.utils.seeding.np_random(3)[0].integers(2**63))])
    free.reset()
    for number in range(5):
        action, state = agent.predict(observation, state=None, episode_start=np.array([number == 0]))
        assert state is None
        assert env.action_space.contains(action)
        observation, _, terminated, truncated, info = env.step(action)
        decision = free.decide(twin.view)
        assert (decision.credits is not None) == agent.linear == ("credits" in info)
        if agent.linear:
            torch.testing.assert_close(torch.as_tensor(info["credits"]), decision.credits[0])
        twin.apply(decision)
        torch.testing.assert_close(env.unwrapped.view.theta, twin.view.theta)
    assert truncated
    assert not terminated


@pytest.mark.parametrize("name", NAMES)
def test_sb3_evaluates_every_agent(name):
    env = Monitor(gym.make(ID, **arguments_for(name)))
    rewards, lengths = evaluate_policy(
        agents.make(name).bind(env), env, n_eval_episodes=2, return_episode_rewards=True
    )
    assert lengths == [5, 5]
    assert np.isfinite(rewards).all()
    if name == "oracle":
        assert min(rewards) > 0


@pytest.mark.parametrize("name", NAMES)
def test_every_agent_plays_a_vector_environment(name):
    venv = gym.make_vec(ID, num_envs=2, **arguments_for(name))
    observations, _ = venv.reset(seed=3)
    agent = agents.make(name).bind(venv)
    for number in range(8):  # episodes have 5 rounds; the sixth step resets
        actions, _ = agent.predict(observations)
        assert actions.shape == venv.action_space.shape
        observations, _, terminated, _, infos = venv.step(actions)
        assert not terminated.any()
        if number == 5:
            assert venv.unwrapped.view.round.tolist() == [0, 0]
        else:
            assert ("credits" in infos) == agent.linear


def test_gaa_begins_anew_with_every_episode():
    """Rewards of GAA in three episodes equal those of three agents that play one each."""
    env = Monitor(gym.make(ID, **ARGUMENTS))
    env.reset(seed=3)  # evaluate_policy resets once more
    rewards, _ = evaluate_policy(
        agents.make("gaa", learning_rate=0.5).bind(env), env, n_eval_episodes=3, return_episode_rewards=True
    )
    env.reset(seed=3)
    for expected in rewards:
        agent, total, done = agents.make("gaa", learning_rate=0.5).bind(env), 0.0, False
        observation, _ = env.reset()
        while not done:
            observation, reward, _, done, _ = env.step(agent.predict(observation)[0])
            total += reward
        assert expected == pytest.approx(total, abs=1e-4)


WRAPPED = {
    "unwrapped": lambda env: env.unwrapped,
    "TimeLimit in Monitor": lambda env: Monitor(TimeLimit(env, 3)),
    "FlattenObservation": FlattenObservation,
    "VecMonitor": lambda env: VecMonitor(DummyVecEnv([lambda: env])),
    "FlattenObservation in DummyVecEnv": lambda env: DummyVecEnv([lambda: FlattenObservation(env)]),
}


@pytest.mark.parametrize("observation", ["pooled", ["trust", "pooled"]])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_binds_to_wrapped_environments(wrapper, observation):
    inner = gym.make(ID, **{**ARGUMENTS, "observation": observation})
    env = WRAPPED[wrapper](inner)
    batch = hasattr(env, "num_envs")
    agent = agents.make("krum").bind(env)
    if batch:
        env.seed(3)
    observation = env.reset() if batch else env.reset(seed=3)[0]
    action, _ = agent.predict(observation)
    assert action.shape == ((1, 7) if batch else (7,))
    expected = agent.credits(inner.unwrapped.view)[0].numpy()
    np.testing.assert_array_equal(action[0] if batch else action, expected)
    env.step(action)
    assert inner.unwrapped.view.round.tolist() == [1]


def test_binds_to_wrapped_vector_environments():
    venv = RecordEpisodeStatistics(gym.make_vec(ID, num_envs=2, **ARGUMENTS))
    observations, _ = venv.reset(seed=0)
    assert agents.make("uniform").bind(venv).predict(observations)[0].shape == (2, 7)


class Part(agents.Uniform):
    """Equal credits that sum to a part of 1 in each environment."""

    def __init__(self, *sums):
        self.sums = torch.tensor(sums)[:, None]

    def decide(self, view):
        return Decision.from_credits(super().decide(view).credits * self.sums, view)


@pytest.mark.parametrize("action", ["null_slot", "update"])
@pytest.mark.parametrize("sums", [(0.0, 1.0), (0.5, 1.0)])
def test_credits_that_sum_to_less_than_one(action, sums):
    venv = gym.make_vec(ID, num_envs=2, **ARGUMENTS, action=action)
    observations, _ = venv.reset(seed=0)
    agent = Part(*sums).bind(venv)
    expected = agent.aggregate(venv.unwrapped.view)
    info = venv.step(agent.predict(observations)[0])[4]
    torch.testing.assert_close(venv.unwrapped.view.previous_update, expected)
    if action == "null_slot":
        np.testing.assert_allclose(info["credits"], [[part / 7] * 7 for part in sums], rtol=1e-6)


@pytest.mark.parametrize(("action", "played"), [("credits", 1.0), ("null_slot", 0.5)])
def test_only_a_null_slot_keeps_credits_below_one(action, played):
    env = gym.make(ID, **ARGUMENTS, action=action)
    observation, _ = env.reset(seed=0)
    info = env.step(Part(0.5).bind(env).predict(observation)[0])[4]
    torch.testing.assert_close(info["credits"].sum(), np.float32(played))


def test_nobody_deserves_credit():
    # Every group of two has a Byzantine worker in it, so that the oracle trusts none.
    groups = {**ARGUMENTS, "num_workers": 6, "num_byzantine": 5, "secure_group_size": 2}
    venv = gym.make_vec(ID, num_envs=2, **groups, action="null_slot")
    observations, _ = venv.reset(seed=0)
    agent = agents.make("oracle").bind(venv)
    assert venv.unwrapped.simulation.byzantine_rows.all()
    info = venv.step(agent.predict(observations)[0])[4]
    assert not info["credits"].any()
    assert not info["update_norm"].any()


def test_episode_starts_reset_the_agent():
    class Recorder(agents.Uniform):
        def reset(self, envs=None):
            resets.append(envs if envs is None else envs.tolist())

    resets = []
    venv = gym.make_vec(ID, num_envs=2, **ARGUMENTS)
    observations, _ = venv.reset(seed=0)
    agent = Recorder().bind(venv)
    agent.predict(observations)  # round 0 says so
    venv.step(np.full((2, 7), 1 / 7, np.float32))
    for starts in (None, [False, False], [False, True]):
        agent.predict(observations, episode_start=None if starts is None else np.array(starts))
    assert resets == [None, [True, True], [False, True]]


def test_state_is_passed_through():
    env = gym.make(ID, **ARGUMENTS)
    observation, _ = env.reset(seed=0)
    state = (np.zeros(3),)
    assert agents.make("uniform").bind(env).predict(observation, state, deterministic=True)[1] is state


def test_predict_needs_bind():
    with pytest.raises(RuntimeError, match=r"call agent.bind\(env\) first"):
        agents.make("gaa").predict(np.zeros((8, 32), np.float32))


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        lambda: gym.make("CartPole-v1"),
        lambda: DummyVecEnv([lambda: gym.make("CartPole-v1")]),
        lambda: DummyVecEnv([lambda: gym.make(ID, **ARGUMENTS)] * 2),
        lambda: gym.make_vec(ID, num_envs=2, vectorization_mode="sync", **ARGUMENTS),
        lambda: SoftmaxCredits(gym.make(ID, **ARGUMENTS)),
        lambda: gym.make(ID, **ARGUMENTS, action="rule", rules=["mean"]),
    ],
    ids=["None", "another", "another in SB3", "two in SB3", "sync", "softmax", "rule"],
)
def test_other_environments_are_refused(make):
    with pytest.raises(ValueError, match="env"):
        agents.make("krum").bind(make())


def test_an_agent_without_credits_needs_updates():
    for action in ("credits", "null_slot"):
        with pytest.raises(NotLinearError, match="action='update'"):
            agents.make("median").bind(gym.make(ID, **ARGUMENTS, action=action))


@pytest.mark.parametrize("vector", [False, True])
def test_attacks_see_the_rule_of_the_bound_agent(vector, rules_seen):
    arguments = {**TINY, "num_workers": 7, "attack": "curious"}
    env = gym.make_vec(ID, num_envs=2, **arguments) if vector else gym.make(ID, **arguments)
    agent = agents.make("krum").bind(env)
    observation, _ = env.reset(seed=0)
    assert rules_seen[-1] is agent.policy
    assert agent.policy.num_byzantine == 2
    env.step(agent.predict(observation)[0])
    agents.make("uniform").bind(env)
    env.reset()
    assert type(rules_seen[-1]) is aggregation.Mean


def test_a_copy_acts_in_the_same_environment():
    env = gym.make(ID, **TINY)
    agent = agents.make("krum").bind(env)
    observation, _ = env.reset(seed=0)
    twin = copy.deepcopy(agent)
    env.step(agent.predict(observation)[0])
    assert np.array_equal(twin.predict(observation)[0], agent.predict(observation)[0])
