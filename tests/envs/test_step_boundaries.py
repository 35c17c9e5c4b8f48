"""Where a step draws its lines: divergence, rewards, sums of credits, and whose arrays it writes into."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from byzgym.envs.actions import CreditActions
from byzgym.envs.rewards import WORST_REWARD, relative_drop

ID = "ByzantineAggregation-v0"
TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "rounds": 10, "attack": "none"}
UNIFORM = np.full(6, 1 / 6, np.float32)
ZERO = np.zeros(6, np.float32)


@pytest.mark.parametrize(("times", "diverges"), [(999, False), (1001, True)])
def test_a_loss_of_more_than_1000_times_the_initial_one_is_divergence(times, diverges):
    env = gym.make(ID, **TINY).unwrapped
    env.reset(seed=0)
    loss = env.step(UNIFORM)[4]["qv_loss"]
    env.reset(seed=0)
    env.simulation.initial_loss.fill_(loss / times)
    _, reward, terminated, truncated, info = env.step(UNIFORM)
    assert info["qv_loss"] == loss
    assert (terminated, info["diverged"], reward == WORST_REWARD) == (diverges, diverges, diverges)
    assert not truncated


def test_a_loss_that_stays_zero_earns_nothing():
    assert relative_drop(torch.zeros(1), torch.zeros(1)).tolist() == [0.0]


@pytest.mark.parametrize("done", [[True, True, True], [False, True, False]])
def test_a_step_that_resets_leaves_the_callers_actions_as_they_are(done):
    venv = gym.make_vec(ID, num_envs=3, **TINY)
    venv.reset(seed=0)
    venv.unwrapped.simulation.server.round += (TINY["rounds"] - 1) * torch.tensor(done)
    actions = np.tile(UNIFORM, (3, 1))
    assert venv.step(actions)[3].tolist() == done
    venv.step(actions)
    assert np.array_equal(actions, np.tile(UNIFORM, (3, 1)))
    assert venv.unwrapped.view.round.tolist() == [0 if ended else 2 for ended in done]


@pytest.mark.parametrize("excess", [5e-4, -5e-4, 2e-6, -2e-6])
def test_credits_whose_sum_is_not_quite_one_are_normalised(excess):
    action = np.array([[0.25, 0.75]]) * (1 + excess)
    credits = CreditActions("credits", 2).decode(action, 1, torch.device("cpu"))
    assert credits[0].tolist() == pytest.approx([0.25, 0.75], rel=1e-7)


def test_given_credits_of_which_only_some_are_nan_are_refused():
    env = gym.make(ID, **TINY).unwrapped
    env.reset(seed=0)
    update = torch.zeros_like(env.view.theta)
    env.use_update(update, torch.tensor([[torch.nan, 0.2, 0.2, 0.2, 0.2, 0.2]]))
    with pytest.raises(ValueError, match="credits must not be negative and must sum to at most 1"):
        env.step(ZERO)
    env.use_update(update, torch.full((1, 6), torch.nan))
    assert np.isnan(env.step(ZERO)[4]["credits"]).all()
