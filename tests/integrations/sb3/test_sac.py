"""SAC's policy treats all workers alike, and learns whom to trust."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC

from byzgym.integrations.sb3 import EquivariantSACPolicy, make_vec_env
from byzgym.wrappers import SoftmaxCredits
from tests.integrations.sb3.cases import permuted

pytestmark = pytest.mark.global_rng


@pytest.mark.parametrize("observation", ["pooled", ("norms", "similarity", "trust", "loss")])
@pytest.mark.parametrize("action", ["credits", "null_slot"])
def test_permuting_workers_permutes_actions_and_keeps_values(observation, action):
    arguments = {"task": "synthetic", "num_workers": 6, "num_byzantine": 4, "pool_size": 8}
    env = SoftmaxCredits(
        gym.make("ByzantineAggregation-v0", observation=observation, action=action, **arguments)
    )
    torch.manual_seed(0)
    policy = EquivariantSACPolicy(env.observation_space, env.action_space, lambda _: 1e-3)
    for parameter in policy.actor.parameters():  # at first all workers are nearly alike
        torch.nn.init.normal_(parameter, std=0.2)
    seen = env.reset(seed=0)[0]
    here = policy.obs_to_tensor(seen)[0]
    means, deviations, _ = policy.actor.get_action_dist_params(here)
    actions = policy.predict(seen, deterministic=True)[0]
    assert len(set(np.round(means[0].tolist(), 3))) > 3
    values = policy.critic(here, torch.as_tensor(actions)[None])
    order = np.random.default_rng(0).permutation(6)
    everywhere = [*order, *range(6, len(actions))]
    moved = policy.obs_to_tensor(permuted(seen, order))[0]
    for found, expected in zip(policy.actor.get_action_dist_params(moved), (means, deviations), strict=False):
        torch.testing.assert_close(found, expected[:, everywhere], atol=1e-4, rtol=1e-4)
    again = policy.critic(moved, torch.as_tensor(actions[everywhere])[None])
    assert len(again) == 2
    for found, expected in zip(again, values, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_at_first_all_workers_get_nearly_the_same(tiny):
    venv = make_vec_env(2, seed=0, softmax_beta=5.0, **tiny)
    model = SAC(EquivariantSACPolicy, venv, buffer_size=10, policy_kwargs={"log_std_init": -2.0}, seed=0)
    seen = venv.reset()
    assert np.abs(model.predict(seen, deterministic=True)[0]).max() < 0.05
    deviations = model.actor.get_action_dist_params(model.policy.obs_to_tensor(seen)[0])[1]
    torch.testing.assert_close(deviations, torch.full((2, 4), -2.0), atol=0.05, rtol=0)


def test_parameters_fit_other_numbers_of_workers(tmp_path):
    few, many = (
        make_vec_env(
            2, seed=0, task="synthetic", num_workers=n, num_byzantine=2, pool_size=8, softmax_beta=5.0
        )
        for n in (4, 7)
    )
    SAC(EquivariantSACPolicy, few, buffer_size=10, seed=0).save(tmp_path / "few.zip")
    model = SAC(EquivariantSACPolicy, many, buffer_size=10, seed=1)
    model.set_parameters(tmp_path / "few.zip")
    assert model.predict(many.reset(), deterministic=True)[0].shape == (2, 7)


def test_saving_keeps_the_policy(tiny, tmp_path):
    venv = make_vec_env(2, seed=0, softmax_beta=5.0, **tiny)
    kwargs = {"net_arch": [8, 8], "softmax_beta": 5.0}
    model = SAC(EquivariantSACPolicy, venv, learning_starts=4, buffer_size=50, seed=0, policy_kwargs=kwargs)
    model.learn(20)
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    seen = venv.reset()
    expected = model.predict(seen, deterministic=True)[0]
    alone = EquivariantSACPolicy.load(tmp_path / "policy")
    for again in (SAC.load(tmp_path / "model"), alone):
        np.testing.assert_array_equal(again.predict(seen, deterministic=True)[0], expected)
    assert alone.softmax_beta == 5.0
    assert alone.critic.q_networks[0].beta == 5.0


def test_what_is_refused(tiny):
    logits = make_vec_env(1, softmax_beta=5.0, **tiny)
    with pytest.raises(ValueError, match="SoftmaxCredits"):
        SAC(EquivariantSACPolicy, make_vec_env(1, **tiny))
    with pytest.raises(ValueError, match="EquivariantSACPolicy does not support use_sde"):
        SAC(EquivariantSACPolicy, logits, use_sde=True)
    with pytest.raises(ValueError, match="net_arch"):
        SAC(EquivariantSACPolicy, logits, policy_kwargs={"net_arch": []})
    with pytest.raises(ValueError, match=r"softmax_beta must be .* got 0"):
        SAC(EquivariantSACPolicy, logits, policy_kwargs={"softmax_beta": 0})


def test_it_learns_whom_to_trust(tiny):
    arguments = {**tiny, "rounds": 10, "qv_size": 30, "observation": ["similarity", "trust"]}
    venv = make_vec_env(16, seed=0, softmax_beta=5.0, **arguments)
    settings = {"learning_starts": 64, "gradient_steps": 4, "batch_size": 64, "buffer_size": 2000}
    kwargs = {"net_arch": [16, 16], "softmax_beta": 5.0}
    model = SAC(
        EquivariantSACPolicy,
        venv,
        learning_rate=3e-3,
        gamma=0.5,
        ent_coef="auto_0.01",
        seed=0,
        policy_kwargs=kwargs,
        **settings,
    )

    def byzantine_credit():
        env = make_vec_env(16, seed=1000, softmax_beta=5.0, **arguments)
        seen, share = env.reset(), []
        for _ in range(9):
            seen, _, _, infos = env.step(model.predict(seen, deterministic=True)[0])
            share += [info["credits"][info["byzantine"]].sum() for info in infos]
        return np.mean(share)

    assert byzantine_credit() > 0.35  # two of four workers: uniform credits give 0.5
    model.learn(1600)
    assert byzantine_credit() < 0.12
