"""bind and predict: agents in Gymnasium environments and in stable-baselines3's evaluation."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from agent_cases import ID, TINY, mix
from gymnasium.wrappers import FlattenObservation, RecordEpisodeStatistics, TimeLimit
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from byzgym import agents, aggregation, attacks
from byzgym.aggregation import NotLinearError
from byzgym.simulation import Simulation
from byzgym.wrappers import RuleSelection, SoftmaxCredits

NAMES = tuple(agents.names())
ARGUMENTS = {**TINY, "num_workers": 7, "num_byzantine": 2, "attack": "sign_flip"}


def simulation_like(env):
    """The simulation that a single environment reset with seed 3 is in."""
    simulation = Simulation.make(1, **ARGUMENTS)
    simulation.reset([int(gym.utils.seeding.np_random(3)[0].integers(2**63))])
    assert torch.equal(simulation.gradients, env.unwrapped.view.gradients)
    return simulation


def make_agent(name, simulation=None):
    return agents.make(name, **({"simulation": simulation} if name == "oracle" and simulation else {}))


@pytest.mark.parametrize("name", NAMES)
def test_predict_plays_the_trajectory_of_aggregate(name):
    env = gym.make(ID, **ARGUMENTS)
    observation, _ = env.reset(seed=3)
    simulation = simulation_like(env)
    bound, free = make_agent(name).bind(env), make_agent(name, simulation)
    if name in aggregation.names():
        free = agents.RuleAgent(name, num_byzantine=2)
    for number in range(5):
        action, state = bound.predict(observation, state=None, episode_start=np.array([number == 0]))
        assert state is None
        assert action.dtype == np.float32
        assert env.action_space.contains(action)
        observation, _, terminated, truncated, info = env.step(action)
        view = simulation.view
        if bound.linear:
            credits = free.credits(view)
            update = mix(credits, view.gradients)
            torch.testing.assert_close(torch.as_tensor(info["credits"]), credits[0])
        else:
            credits, update = None, free.aggregate(view)
            assert np.isnan(info["credits"]).all()
        simulation.apply(update, credits)
        torch.testing.assert_close(env.unwrapped.view.theta, simulation.view.theta)
    assert truncated
    assert not terminated


@pytest.mark.parametrize("name", NAMES)
def test_stable_baselines3_evaluates_every_agent(name):
    env = gym.make(ID, **ARGUMENTS)
    env.reset(seed=0)
    agent = agents.make(name).bind(env)
    with pytest.warns(UserWarning, match="not wrapped with a ``Monitor``"):
        rewards, lengths = evaluate_policy(agent, env, n_eval_episodes=2, return_episode_rewards=True)
    assert lengths == [5, 5]
    assert np.isfinite(rewards).all()
    if name == "oracle":
        assert min(rewards) > 0


def test_evaluation_starts_the_agent_anew_in_every_episode():
    """Rewards of GAA in two episodes equal those of two agents that play one each."""
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


@pytest.mark.parametrize("name", NAMES)
def test_every_agent_plays_a_vector_environment(name):
    venv = gym.make_vec(ID, num_envs=2, **ARGUMENTS)
    observations, _ = venv.reset(seed=3)
    agent = agents.make(name).bind(venv)
    for number in range(8):  # episodes have 5 rounds; the sixth step resets
        actions, _ = agent.predict(observations)
        assert actions.shape == (2, 7)
        assert actions.dtype == np.float32
        resets = number == 5
        view = venv.unwrapped.view
        expected = None if name == "random" else agent.aggregate(view).clone()
        observations, _, terminated, _, infos = venv.step(actions)
        assert not terminated.any()
        if resets:
            assert venv.unwrapped.view.round.tolist() == [0, 0]
        elif expected is not None:
            torch.testing.assert_close(venv.unwrapped.view.previous_update, expected)
        if not resets:
            assert np.isnan(infos["credits"]).all() == (not agent.linear)


def test_gaa_in_a_vector_environment_begins_anew_with_every_episode():
    venv = gym.make_vec(ID, num_envs=2, **ARGUMENTS)
    observations, _ = venv.reset(seed=3)
    agent = agents.make("gaa", learning_rate=0.1).bind(venv)
    for number in range(7):
        actions, _ = agent.predict(observations)
        if number == 6:  # the first round of the second episode
            fresh = agents.make("gaa").credits(venv.unwrapped.view)
            np.testing.assert_allclose(actions, fresh.numpy(), rtol=1e-5)
        observations = venv.step(actions)[0]


@pytest.mark.parametrize("index", [0, 1])
def test_the_vector_environment_plays_what_single_ones_play(index):
    def play(env, count, seed):
        observation, _ = env.reset(seed=seed)
        agent = agents.make("median").bind(env)
        for _ in range(count):
            observation = env.step(agent.predict(observation)[0])[0]
        return env.unwrapped.view.theta

    batch = play(gym.make_vec(ID, num_envs=2, **ARGUMENTS), 4, 3)
    alone = play(gym.make(ID, **ARGUMENTS), 4, 3 + index)
    torch.testing.assert_close(batch[index], alone[0])


WRAPPED = {
    "itself": lambda env: env,
    "unwrapped": lambda env: env.unwrapped,
    "TimeLimit": lambda env: TimeLimit(env, 3),
    "RecordEpisodeStatistics": RecordEpisodeStatistics,
    "TimeLimit in Monitor": lambda env: Monitor(TimeLimit(env, 3)),
    "FlattenObservation": FlattenObservation,
    "DummyVecEnv": lambda env: DummyVecEnv([lambda: env]),
    "VecMonitor": lambda env: VecMonitor(DummyVecEnv([lambda: env])),
    "FlattenObservation in DummyVecEnv": lambda env: DummyVecEnv([lambda: FlattenObservation(env)]),
}


@pytest.mark.parametrize("observation", ["pooled", ["trust", "pooled"], ["norms"]])
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
    from gymnasium.wrappers.vector import RecordEpisodeStatistics

    venv = RecordEpisodeStatistics(gym.make_vec(ID, num_envs=2, **ARGUMENTS))
    observations, _ = venv.reset(seed=0)
    assert agents.make("uniform").bind(venv).predict(observations)[0].shape == (2, 7)


def test_a_step_with_another_action_plays_that_action():
    env = gym.make(ID, **ARGUMENTS)
    observation, _ = env.reset(seed=0)
    agents.make("median").bind(env).predict(observation)  # hands its vector over, for an action of all zero
    expected = env.unwrapped.view.gradients[:, 3].clone()
    action = np.eye(7, dtype=np.float32)[3]
    info = env.step(action)[4]
    np.testing.assert_array_equal(info["credits"], action)
    torch.testing.assert_close(env.unwrapped.view.previous_update, expected)
    # The vector was of that round only.
    np.testing.assert_allclose(env.step(np.zeros(7, np.float32))[4]["credits"], [1 / 7] * 7)


def test_null_slot_gets_nothing():
    env = gym.make(ID, **ARGUMENTS, action="null_slot")
    observation, _ = env.reset(seed=0)
    action, _ = agents.make("uniform").bind(env).predict(observation)
    np.testing.assert_allclose(action, [1 / 7] * 7 + [0])
    info = env.step(action)[4]
    np.testing.assert_allclose(info["credits"], [1 / 7] * 7)


@pytest.mark.parametrize("arguments", [{}, {"action": "null_slot"}], ids=["credits", "null_slot"])
def test_credit_for_nobody_is_no_credit_for_all(arguments):
    # Every group of two has a Byzantine worker in it, so that the oracle trusts none.
    groups = {**ARGUMENTS, "num_workers": 6, "num_byzantine": 5, "secure_group_size": 2}
    venv = gym.make_vec(ID, num_envs=2, **{**groups, **arguments})
    observations, _ = venv.reset(seed=0)
    agent = agents.make("oracle").bind(venv)
    assert venv.unwrapped.simulation.byzantine_rows.all()
    info = venv.step(agent.predict(observations)[0])[4]
    assert not info["credits"].any()
    assert not info["update_norm"].any()


class Part(agents.Uniform):
    """Equal credits that sum to a part of 1 in each environment."""

    def __init__(self, *sums):
        self.sums = torch.tensor(sums)[:, None]

    def credits(self, view):
        return super().credits(view) * self.sums


@pytest.mark.parametrize("arguments", [{}, {"action": "null_slot"}], ids=["credits", "null_slot"])
@pytest.mark.parametrize("sums", [(0.0, 1.0), (0.5, 1.0), (0.5, 0.0), (1.0, 1.0)])
def test_an_environment_applies_what_the_agent_aggregates(arguments, sums):
    venv = gym.make_vec(ID, num_envs=2, **ARGUMENTS, **arguments)
    observations, _ = venv.reset(seed=0)
    agent = Part(*sums).bind(venv)
    expected = agent.aggregate(venv.unwrapped.view)
    info = venv.step(agent.predict(observations)[0])[4]
    np.testing.assert_allclose(info["credits"], [[part / 7] * 7 for part in sums], rtol=1e-6)
    torch.testing.assert_close(venv.unwrapped.view.previous_update, expected)


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_credits_of_somebody_elses_agent_keep_their_sum_where_rows_are_rejected(part):
    class Foreign:
        def reset(self):
            pass

        def credits(self, view):
            return torch.full_like(view.previous_credits, part / view.num_workers)

    agents.register("test_part", Foreign)
    attacks.register("test_nan", lambda: lambda gradients, byzantine, context: gradients * torch.nan)
    env = gym.make(ID, **{**ARGUMENTS, "attack": "test_nan"})
    observation, _ = env.reset(seed=0)
    info = env.step(agents.make("test_part").bind(env).predict(observation)[0])[4]
    assert info["rejected"].sum() == 2
    np.testing.assert_allclose(info["credits"], ~info["rejected"] * part / 5, rtol=1e-6)


def test_secure_groups_are_credited_as_groups():
    env = gym.make(ID, **{**ARGUMENTS, "num_workers": 6, "secure_group_size": 2})
    observation, _ = env.reset(seed=0)
    assert agents.make("uniform").bind(env).predict(observation)[0].shape == (3,)


def test_episodes_that_start_reset_the_agent_there():
    class Recorder(agents.Uniform):
        def reset(self, envs=None):
            resets.append(envs if envs is None else envs.tolist())

    resets = []
    venv = gym.make_vec(ID, num_envs=2, **ARGUMENTS)
    observations, _ = venv.reset(seed=0)
    agent = Recorder().bind(venv)
    assert resets == [None]
    for starts in (None, [False, False], [False, True], [True, True]):
        agent.predict(observations, episode_start=None if starts is None else np.array(starts))
    assert resets == [None, [True, True], [False, True], [True, True]]


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("rounds", [1, 6])
def test_gaa_begins_anew_in_every_episode_however_few_rounds_were_played(rounds, told):
    env = gym.make(ID, **{**ARGUMENTS, "rounds": rounds})
    agent = agents.make("gaa", learning_rate=0.5).bind(env)
    env.reset(seed=1)
    agent.predict(None)  # a look, and no step
    for _ in range(3):
        observation, _ = env.reset()
        action, _ = agent.predict(observation, episode_start=np.ones(1, dtype=bool) if told else None)
        fresh = agents.make("gaa").credits(env.unwrapped.view)[0]
        np.testing.assert_allclose(action, fresh.numpy(), rtol=1e-5)
        env.step(action)


def test_state_is_passed_through():
    env = gym.make(ID, **ARGUMENTS)
    observation, _ = env.reset(seed=0)
    state = (np.zeros(3),)
    assert agents.make("uniform").bind(env).predict(observation, state, deterministic=True)[1] is state


def test_bind_returns_the_agent_and_resets_it():
    env = gym.make(ID, **ARGUMENTS)
    env.reset(seed=0)
    agent = agents.make("random", seed=1)
    first = agent.credits(env.unwrapped.view)
    agent.credits(env.unwrapped.view)
    assert agent.bind(env) is agent
    assert torch.equal(agent.credits(env.unwrapped.view), first)


@pytest.mark.parametrize("name", NAMES)
def test_predict_needs_bind(name):
    with pytest.raises(RuntimeError, match=r"call agent.bind\(env\) first"):
        agents.make(name).predict(np.zeros((8, 32), np.float32))


@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: DummyVecEnv([lambda: env])])
def test_other_environments_cannot_be_bound(wrap):
    with pytest.raises(ValueError, match="env must be a ByzantineAggregation environment"):
        agents.make("krum").bind(wrap(gym.make("CartPole-v1")))


@pytest.mark.parametrize(
    "make",
    [
        lambda: DummyVecEnv([lambda: gym.make(ID, **ARGUMENTS)] * 2),
        lambda: gym.make_vec(ID, num_envs=2, vectorization_mode="sync", **ARGUMENTS),
    ],
)
def test_several_single_environments_side_by_side_are_refused(make):
    """Only one of them could be read; the native vector environment is there for batches."""
    with pytest.raises(ValueError, match="env"):
        agents.make("krum").bind(make())


def test_nothing_cannot_be_bound():
    with pytest.raises(ValueError, match="ByzantineAggregation environment, possibly wrapped, got None"):
        agents.make("mean").bind(None)


def test_agents_without_credits_say_so():
    env = gym.make(ID, **ARGUMENTS)
    env.reset(seed=0)
    agent = agents.make("median").bind(env)
    with pytest.raises(NotLinearError):
        agent.credits(env.unwrapped.view)


@pytest.mark.parametrize("wrap", [SoftmaxCredits, lambda env: RuleSelection(env, ["mean", "median"])])
def test_wrappers_that_change_actions_are_refused(wrap):
    with pytest.raises(ValueError, match="env must take credits as actions"):
        agents.make("krum").bind(wrap(gym.make(ID, **ARGUMENTS)))
