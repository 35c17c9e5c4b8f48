"""What agents remember between calls: draws, rounds, resets; and sums of credits a little above 1."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from agent_cases import ID, TINY, make

from byzgym import agents
from byzgym.aggregation import ServerView


def test_random_draws_once_a_round_however_often_it_is_asked():
    simulation = make(1)
    once, twice = agents.make("random", seed=3), agents.make("random", seed=3)
    for _ in range(3):
        expected = once.credits(simulation.view).clone()
        for _ in range(2):
            assert torch.equal(twice.credits(simulation.view), expected)
        simulation.apply(torch.zeros_like(simulation.view.theta))


def test_a_reset_begins_the_sequence_of_random_anew_even_within_a_round():
    simulation, agent = make(1), agents.make("random", seed=3)
    sequence = []
    for _ in range(2):
        simulation.apply(torch.zeros_like(simulation.view.theta))
        sequence.append(agent.credits(simulation.view).clone())
    assert not torch.equal(sequence[0], sequence[1])
    agent.reset()
    assert torch.equal(agent.credits(simulation.view), sequence[0])
    simulation.apply(torch.zeros_like(simulation.view.theta))
    assert torch.equal(agent.credits(simulation.view), sequence[1])


class Foreign:
    """Somebody's agent with equal credits; it counts its resets."""

    def __init__(self, total=1.0):
        self.total, self.resets = total, 0

    def reset(self):
        self.resets += 1

    def credits(self, view):
        return torch.full_like(view.previous_credits, self.total / view.num_workers)


@pytest.mark.parametrize("told", [True, False])
def test_an_agent_is_reset_once_an_episode_told_or_not(told):
    """The last look of each episode comes without a step, as where a value is bootstrapped."""
    foreign = Foreign()
    agents.register("test_foreign", lambda: foreign)
    env = gym.make(ID, **TINY)
    agent = agents.make("test_foreign").bind(env)
    assert foreign.resets == 1
    for episode in range(2):
        observation, _ = env.reset(seed=episode)
        for number in range(TINY["rounds"] + 1):
            starts = np.array([number == 0]) if told else None
            action, _ = agent.predict(observation, episode_start=starts)
            if number < TINY["rounds"]:
                observation = env.step(action)[0]
    assert foreign.resets == 3


def test_an_agent_of_somebody_is_told_which_environments_begin_if_it_wants_to_know():
    class Counting:
        def reset(self, envs=None):
            began.append(envs if envs is None else envs.tolist())

        def credits(self, view):
            return torch.full_like(view.previous_credits, 1 / view.num_workers)

    began = []
    agents.register("test_counting", Counting)
    venv = gym.make_vec(ID, num_envs=2, **TINY)
    agent = agents.make("test_counting").bind(venv)
    observations, _ = venv.reset(seed=0)
    for starts in (None, np.array([False, True])):
        agent.predict(observations, episode_start=starts)
        observations, *_ = venv.step(np.ones(venv.action_space.shape, np.float32))
    assert began == [None, [True, True], [False, True]]


def test_an_agent_of_somebody_whose_reset_takes_something_else_is_given_nothing():
    class Seeded:
        def reset(self, seed=None):
            seen.append(seed)

        def credits(self, view):
            return torch.full_like(view.previous_credits, 1 / view.num_workers)

    seen = []
    agents.register("test_seeded", Seeded)
    env = gym.make(ID, **TINY)
    observation, _ = env.reset(seed=0)
    agents.make("test_seeded").bind(env).predict(observation, episode_start=np.array([True]))
    assert seen == [None, None]


def test_an_agent_is_not_reset_by_views_that_do_not_count_rounds():
    class Job:
        """A training job with the interface of an environment."""

        def __init__(self, env):
            self.action_space, self.observation_space = env.action_space, env.observation_space
            self.made = env.unwrapped.view

        @property
        def view(self):
            return ServerView(
                gradients=self.made.gradients,
                theta=self.made.theta,
                learning_rate=self.made.learning_rate,
                qv_loss=self.made.qv_loss,
            )

    foreign = Foreign()
    agents.register("test_foreign", lambda: foreign)
    env = gym.make(ID, **TINY)
    env.reset(seed=0)
    agent = agents.make("test_foreign").bind(Job(env))
    for _ in range(3):
        agent.predict(None)
    assert foreign.resets == 1


def test_credits_a_little_above_one_leave_the_null_slot_nothing():
    agents.register("test_foreign", lambda: Foreign(1.0005))
    env = gym.make(ID, **TINY, action="null_slot")
    observation, _ = env.reset(seed=0)
    action, _ = agents.make("test_foreign").bind(env).predict(observation)
    assert action[-1] == 0
    assert env.action_space.contains(action)
    np.testing.assert_allclose(env.step(action)[4]["credits"], [1 / 6] * 6, rtol=1e-6)
