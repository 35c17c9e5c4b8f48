import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.evaluation import evaluate_policy

from byzgym.integrations.sb3 import (
    DirichletPolicy,
    EquivariantDirichletPolicy,
    EquivariantPolicy,
    make_vec_env,
)
from byzgym.wrappers import SoftmaxCredits
from tests.integrations.sb3.cases import permuted

pytestmark = pytest.mark.global_rng

DIRICHLET = [DirichletPolicy, EquivariantDirichletPolicy]
EQUIVARIANT = [EquivariantPolicy, EquivariantDirichletPolicy]


@pytest.mark.parametrize("policy", EQUIVARIANT)
@pytest.mark.parametrize("observation", ["pooled", "all", ("norms", "similarity", "trust", "loss")])
@pytest.mark.parametrize("action", ["credits", "null_slot"])
def test_permuting_workers_permutes_credits(policy, observation, action):
    arguments = {"task": "synthetic", "num_workers": 6, "num_byzantine": 4, "pool_size": 8}
    env = gym.make("ByzantineAggregation-v0", observation=observation, action=action, **arguments)
    space = (env if policy is EquivariantDirichletPolicy else SoftmaxCredits(env)).action_space
    torch.manual_seed(2)  # with credits that differ
    # Without ortho_init the weights are so large that symmetry is no accident.
    made = policy(env.observation_space, space, lambda _: 1e-3, ortho_init=False)
    seen = env.reset(seed=0)[0]
    actions = made.predict(seen, deterministic=True)[0]
    assert len(set(actions.tolist())) > 3
    value = made.predict_values(made.obs_to_tensor(seen)[0])
    rng = np.random.default_rng(0)
    for _ in range(5):
        order = rng.permutation(6)
        moved = permuted(seen, order)
        expected = np.r_[actions[order], actions[6:]]
        np.testing.assert_allclose(made.predict(moved, deterministic=True)[0], expected, atol=1e-5)
        again = made.predict_values(made.obs_to_tensor(moved)[0])
        torch.testing.assert_close(again, value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("policy", EQUIVARIANT)
def test_parameters_fit_other_numbers_of_workers(policy, tmp_path):
    beta = {"softmax_beta": 5.0} if policy is EquivariantPolicy else {}
    few, many = (
        make_vec_env(2, seed=0, task="synthetic", num_workers=n, num_byzantine=2, pool_size=8, **beta)
        for n in (4, 7)
    )
    PPO(policy, few, n_steps=4, batch_size=4, seed=0).save(tmp_path / "few.zip")
    model = PPO(policy, many, n_steps=4, batch_size=4, seed=1)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.set_parameters(tmp_path / "few.zip")
    assert not all(torch.equal(one, two) for one, two in zip(before, model.policy.parameters(), strict=True))
    assert model.predict(many.reset(), deterministic=True)[0].shape == (2, 7)


def test_policies_refuse_the_wrong_actions(tiny):
    with pytest.raises(ValueError, match="SoftmaxCredits"):
        PPO(EquivariantPolicy, make_vec_env(1, **tiny))
    for policy in DIRICHLET:
        with pytest.raises(ValueError, match="do not wrap"):
            PPO(policy, make_vec_env(1, softmax_beta=1.0, **tiny))
    with pytest.raises(ValueError, match="use_sde"):
        PPO(EquivariantPolicy, make_vec_env(1, softmax_beta=1.0, **tiny), use_sde=True)
    with pytest.raises(ValueError, match="net_arch"):
        PPO(EquivariantPolicy, make_vec_env(1, softmax_beta=1.0, **tiny), policy_kwargs={"net_arch": []})


def test_secure_groups_are_rows(tiny):
    env = make_vec_env(2, seed=0, **{**tiny, "secure_group_size": 2})
    model = PPO(EquivariantDirichletPolicy, env, n_steps=8, batch_size=16).learn(16)
    assert model.predict(env.reset())[0].shape == (2, 2)


@pytest.mark.parametrize("policy", DIRICHLET)
@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_trained_credits_stay_on_the_simplex(tiny, policy, algorithm):
    env = make_vec_env(4, seed=0, **tiny)
    model = algorithm(policy, env, n_steps=16, seed=0, ent_coef=0.01).learn(256)
    observation = env.reset()
    for deterministic in (False, True):
        credits = model.predict(observation, deterministic=deterministic)[0]
        np.testing.assert_allclose(credits.sum(1), 1, atol=1e-5)
        info = env.step(credits)[3][0]
        np.testing.assert_allclose(info["credits"], credits[0], atol=1e-6)


@pytest.mark.parametrize("policy", [EquivariantPolicy, *DIRICHLET])
def test_saving_keeps_the_policy(tiny, tmp_path, policy):
    beta = 5.0 if policy is EquivariantPolicy else None
    env = make_vec_env(2, seed=0, softmax_beta=beta, **tiny)
    kwargs = {} if beta else {"min_concentration": 0.3}
    model = PPO(policy, env, n_steps=16, batch_size=16, seed=0, policy_kwargs=kwargs).learn(64)
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=env)
    model.policy.save(tmp_path / "policy")
    alone = policy.load(tmp_path / "policy")
    observation = env.reset()
    expected = model.predict(observation, deterministic=True)[0]
    for again in (loaded, alone):
        np.testing.assert_array_equal(again.predict(observation, deterministic=True)[0], expected)
    if not beta:
        assert alone.action_dist.min_concentration == 0.3
    loaded.learn(64)


def test_evaluate_policy(tiny):
    env = make_vec_env(2, seed=0, softmax_beta=5.0, **tiny)
    model = PPO(EquivariantPolicy, env, n_steps=16, batch_size=16, seed=0)
    single = SoftmaxCredits(gym.make("ByzantineAggregation-v0", **tiny))
    for where in (env, single):
        returns, lengths = evaluate_policy(model, where, 2, return_episode_rewards=True, warn=False)
        assert np.isfinite(returns).all()
        assert len(lengths) == 2


def byzantine_credit(model, arguments, beta):
    env = make_vec_env(16, seed=1000, softmax_beta=beta, **arguments)
    observation, share = env.reset(), []
    for _ in range(9):
        observation, _, _, infos = env.step(model.predict(observation, deterministic=True)[0])
        share += [info["credits"][info["byzantine"]].sum() for info in infos]
    return np.mean(share)


@pytest.mark.parametrize("policy", EQUIVARIANT)
def test_policies_learn_whom_to_trust(tiny, policy):
    beta = 5.0 if policy is EquivariantPolicy else None
    arguments = {**tiny, "rounds": 10, "qv_size": 30, "observation": ["similarity", "trust"]}
    env = make_vec_env(16, seed=0, softmax_beta=beta, **arguments)
    model = PPO(policy, env, n_steps=20, batch_size=160, n_epochs=8, learning_rate=3e-3, gamma=0.5, seed=0)
    assert byzantine_credit(model, arguments, beta) > 0.35  # two of four workers: uniform credits give 0.5
    model.learn(16 * 20 * 8)
    assert byzantine_credit(model, arguments, beta) < 0.12


def test_the_unused_deviation_is_not_trained(tiny):
    env = make_vec_env(1, **tiny)
    policy = DirichletPolicy(env.observation_space, env.action_space, lambda _: 1e-3)
    assert not policy.log_std.requires_grad
    assert policy.action_net.weight.requires_grad
