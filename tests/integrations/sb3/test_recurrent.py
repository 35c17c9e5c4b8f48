"""RecurrentPPO's policy treats all workers alike, and remembers each of them."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from byzgym.integrations.sb3 import make_vec_env
from byzgym.wrappers import SoftmaxCredits
from tests.integrations.sb3.cases import permuted

pytestmark = pytest.mark.global_rng
sb3_contrib = pytest.importorskip("sb3_contrib")
from byzgym.integrations.sb3.recurrent import EquivariantLstmPolicy  # noqa: E402  needs sb3-contrib


def changed(policy):
    """The policy with weights so large that it treats workers differently."""
    for parameter in policy.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return policy


@pytest.mark.parametrize("observation", ["pooled", ("norms", "similarity", "trust", "loss")])
def test_permuting_workers_permutes_credits_in_all_rounds(observation):
    arguments = {"task": "synthetic", "num_workers": 6, "num_byzantine": 4, "pool_size": 8}
    env = SoftmaxCredits(gym.make("ByzantineAggregation-v0", observation=observation, **arguments))
    torch.manual_seed(0)
    policy = changed(EquivariantLstmPolicy(env.observation_space, env.action_space, lambda _: 1e-3))
    order = np.random.default_rng(0).permutation(6)
    seen, state, other = env.reset(seed=0)[0], None, None
    for number in range(3):
        start = np.array([number == 0])
        actions, state = policy.predict(seen, state, start, deterministic=True)
        moved, other = policy.predict(permuted(seen, order), other, start, deterministic=True)
        np.testing.assert_allclose(moved, actions[order], atol=1e-4)
        assert len(set(np.round(actions, 4).tolist())) > 2
        seen = env.step(actions)[0]


def test_what_was_seen_before_matters_until_an_episode_begins(tiny):
    venv = make_vec_env(2, seed=0, softmax_beta=5.0, **tiny)
    torch.manual_seed(0)
    policy = changed(EquivariantLstmPolicy(venv.observation_space, venv.action_space, lambda _: 1e-3))
    seen = venv.reset()
    first, state = policy.predict(seen, None, np.array([True, True]), deterministic=True)
    second, _ = policy.predict(seen, state, np.array([False, True]), deterministic=True)
    assert np.abs(second[0] - first[0]).max() > 1e-3
    np.testing.assert_allclose(second[1], first[1], atol=1e-6)


def test_parameters_fit_other_numbers_of_workers(tmp_path):
    few, many = (
        make_vec_env(
            2, seed=0, task="synthetic", num_workers=n, num_byzantine=2, pool_size=8, softmax_beta=5.0
        )
        for n in (4, 7)
    )
    made = {"n_steps": 4, "batch_size": 4}
    sb3_contrib.RecurrentPPO(EquivariantLstmPolicy, few, seed=0, **made).save(tmp_path / "few.zip")
    model = sb3_contrib.RecurrentPPO(EquivariantLstmPolicy, many, seed=1, **made)
    model.set_parameters(tmp_path / "few.zip")
    assert model.predict(many.reset(), deterministic=True)[0].shape == (2, 7)


def test_saving_keeps_the_policy(tiny, tmp_path):
    venv = make_vec_env(2, seed=0, softmax_beta=5.0, **tiny)
    kwargs = {"lstm_hidden_size": 3, "net_arch": [8, 8]}
    made = {"n_steps": 8, "batch_size": 8, "policy_kwargs": kwargs}
    model = sb3_contrib.RecurrentPPO(EquivariantLstmPolicy, venv, seed=0, **made).learn(32)
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    seen = venv.reset()
    expected = model.predict(seen, deterministic=True)[0]
    loaded = sb3_contrib.RecurrentPPO.load(tmp_path / "model", env=venv)
    for again in (loaded, EquivariantLstmPolicy.load(tmp_path / "policy")):
        np.testing.assert_array_equal(again.predict(seen, deterministic=True)[0], expected)
    loaded.learn(32)


def test_all_parameters_are_trained(tiny):
    venv = make_vec_env(2, seed=0, softmax_beta=5.0, **tiny)
    model = sb3_contrib.RecurrentPPO(EquivariantLstmPolicy, venv, n_steps=8, batch_size=8, seed=0)
    before = {name: value.clone() for name, value in model.policy.named_parameters()}
    model.learn(32)
    same = [name for name, value in model.policy.named_parameters() if torch.equal(value, before[name])]
    assert same == []


def test_a_memory_needs_a_size(tiny):
    venv = make_vec_env(1, softmax_beta=5.0, **tiny)
    with pytest.raises(ValueError, match=r"lstm_hidden_size must be .* got 0"):
        EquivariantLstmPolicy(venv.observation_space, venv.action_space, lambda _: 1e-3, lstm_hidden_size=0)
