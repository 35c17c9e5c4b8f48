"""The policies: equivariance, the Dirichlet distribution, training, saving."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO, SAC, TD3
from stable_baselines3.common.evaluation import evaluate_policy

from byzgym.integrations.sb3 import (
    DirichletDistribution,
    DirichletPolicy,
    EquivariantDirichletPolicy,
    EquivariantExtractor,
    EquivariantPolicy,
    make_vec_env,
)
from byzgym.wrappers import SoftmaxCredits

pytestmark = pytest.mark.global_rng

EQUIVARIANT = [EquivariantPolicy, EquivariantDirichletPolicy]
PER_WORKER = ("norms", "trust", "credits")


def build(policy, observation, null_slot=False, raw=True):
    """An untrained policy whose weights are large enough that symmetry is no accident."""
    simulated = gym.make(
        "ByzantineAggregation-v0", task="synthetic", num_workers=6, num_byzantine=4, pool_size=8,
        observation=observation, action="null_slot" if null_slot else "credits",
    )  # fmt: skip
    space = (
        simulated.action_space
        if policy is EquivariantDirichletPolicy
        else SoftmaxCredits(simulated).action_space
    )
    torch.manual_seed(0)
    made = policy(
        simulated.observation_space, space, lambda _: 1e-3, ortho_init=False,
        features_extractor_kwargs={"raw": raw},
    )  # fmt: skip
    return made, simulated.reset(seed=0)[0]


def permuted(observation, order):
    if not isinstance(observation, dict):
        return observation[[*order, len(order)]]
    moved = {}
    for name, value in observation.items():
        if name == "pooled":
            moved[name] = value[[*order, len(order)]]
        elif name == "similarity":
            moved[name] = value[order][:, order]
        else:
            moved[name] = value[order] if name in (*PER_WORKER, "gradients") else value
    return moved


@pytest.mark.parametrize("policy", EQUIVARIANT)
@pytest.mark.parametrize("observation", ["pooled", "all", ("norms", "similarity", "trust", "loss")])
@pytest.mark.parametrize("null_slot", [False, True])
def test_permuting_workers_permutes_credits_and_keeps_the_value(policy, observation, null_slot):
    made, seen = build(policy, observation, null_slot)
    actions = made.predict(seen, deterministic=True)[0]
    assert len(set(actions.tolist())) > 3
    value = made.predict_values(made.obs_to_tensor(seen)[0])
    rng = np.random.default_rng(0)
    for _ in range(5):
        order = rng.permutation(6)
        moved = permuted(seen, order)
        expected = np.r_[actions[order], actions[6:]]
        np.testing.assert_allclose(made.predict(moved, deterministic=True)[0], expected, atol=1e-5)
        torch.testing.assert_close(
            made.predict_values(made.obs_to_tensor(moved)[0]), value, atol=1e-4, rtol=1e-4
        )


def test_features_are_finite_whatever_is_observed():
    space = spaces.Box(-100, 100, (5, 8), np.float32)
    extractor = EquivariantExtractor(space, raw=True)
    rng = np.random.default_rng(0)
    for scale in (0, 1e-30, 1.0, 100.0):
        rows = np.clip(scale * rng.standard_normal((3, 5, 8)), -100, 100).astype(np.float32)
        rows[:, 1] = 0  # a rejected submission
        features = extractor(torch.as_tensor(rows))
        assert features.shape == (3, extractor.features_dim)
        assert torch.isfinite(features).all()


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (5,), np.float32),
        spaces.Dict({"loss": spaces.Box(0, 1, (1,))}),
        spaces.Dict({"other": spaces.Box(0, 1, (4, 2)), "norms": spaces.Box(0, 1, (4,))}),
        spaces.Discrete(3),
    ],
)
def test_extractor_refuses_other_observations(space):
    with pytest.raises(ValueError, match="observation must"):
        EquivariantExtractor(space)


@pytest.mark.parametrize("policy", EQUIVARIANT)
def test_parameters_serve_another_number_of_workers(policy, tmp_path):
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
    for policy in (EquivariantDirichletPolicy, DirichletPolicy):
        with pytest.raises(ValueError, match="without wrapper"):
            PPO(policy, make_vec_env(1, softmax_beta=1.0, **tiny))
    with pytest.raises(ValueError, match="use_sde"):
        PPO(EquivariantPolicy, make_vec_env(1, softmax_beta=1.0, **tiny), use_sde=True)
    with pytest.raises(ValueError, match="net_arch"):
        PPO(EquivariantPolicy, make_vec_env(1, softmax_beta=1.0, **tiny), policy_kwargs={"net_arch": []})


def test_secure_groups_are_rows(tiny):
    env = make_vec_env(2, seed=0, **{**tiny, "secure_group_size": 2})
    model = PPO(EquivariantDirichletPolicy, env, n_steps=8, batch_size=16).learn(16)
    assert model.predict(env.reset())[0].shape == (2, 2)


def test_dirichlet_equals_torch():
    ours = DirichletDistribution(4, min_concentration=0.1)
    raw = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    ours.proba_distribution(raw)
    theirs = torch.distributions.Dirichlet(0.1 + torch.nn.functional.softplus(raw + np.log(np.e - 1)))
    credits = torch.full((7, 4), 0.25)
    torch.testing.assert_close(ours.log_prob(credits), theirs.log_prob(credits))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    # At raw 0 and without the offset the distribution is uniform, with density (n - 1)! everywhere.
    uniform = DirichletDistribution(4, min_concentration=1e-9).proba_distribution(torch.zeros(1, 4))
    assert uniform.log_prob(credits[:1]).item() == pytest.approx(np.log(6), abs=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
def test_dirichlet_is_safe_at_extremes(scale):
    torch.manual_seed(0)
    raw = (scale * torch.randn(500, 6)).requires_grad_()
    distribution = DirichletDistribution(6).proba_distribution(raw)
    for credits in (distribution.sample(), distribution.mode()):
        assert torch.isfinite(credits).all()
        assert credits.min() >= 0
        torch.testing.assert_close(credits.sum(1), torch.ones(500))
        log_prob = distribution.log_prob(credits)
        assert torch.isfinite(log_prob).all()
    (log_prob.sum() + distribution.entropy().sum()).backward()
    assert torch.isfinite(raw.grad).all()


def test_a_distribution_that_has_been_used_can_be_copied():
    raw = 2 * torch.zeros(1, 3, requires_grad=True)  # tensors inside a graph cannot be copied
    distribution = DirichletDistribution(3, 0.5).proba_distribution(raw)
    again = copy.deepcopy(distribution)
    assert again.min_concentration == 0.5
    assert distribution.mode().tolist() == again.proba_distribution(raw).mode().tolist()


@pytest.mark.parametrize("policy", [DirichletPolicy, EquivariantDirichletPolicy])
def test_policies_have_the_default_of_their_distribution(tiny, policy):
    env = make_vec_env(1, **tiny)
    made = policy(env.observation_space, env.action_space, lambda _: 1e-3)
    assert made.min_concentration == made.action_dist.min_concentration == 0.02
    start = DirichletDistribution(3).proba_distribution(torch.zeros(1, 3)).distribution
    torch.testing.assert_close(start.concentration, torch.full((1, 3), 1.02))


def test_dirichlet_mode():
    distribution = DirichletDistribution(3, min_concentration=1e-9)
    raw = torch.log(torch.expm1(torch.tensor([[2.0, 4.0, 0.5], [0.5, 0.25, 0.25]]))) - np.log(np.e - 1)
    expected = torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]])
    torch.testing.assert_close(
        distribution.proba_distribution(raw.float()).mode(), expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("policy", [DirichletPolicy, EquivariantDirichletPolicy])
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


@pytest.mark.parametrize("observation", ["pooled", ["pooled", "norms", "loss"]])
@pytest.mark.parametrize(("algorithm", "softmax_beta"), [(PPO, 5.0), (A2C, 5.0), (SAC, 5.0), (TD3, None)])
def test_every_algorithm_runs(tiny, algorithm, softmax_beta, observation):
    env = make_vec_env(2, seed=0, softmax_beta=softmax_beta, observation=observation, **tiny)
    if algorithm in (PPO, A2C):
        model = algorithm(EquivariantPolicy, env, n_steps=32, seed=0)
    else:
        kwargs = {"features_extractor_class": EquivariantExtractor, "net_arch": [32]}
        name = "MlpPolicy" if observation == "pooled" else "MultiInputPolicy"
        model = algorithm(
            name, env, policy_kwargs=kwargs, learning_starts=20, batch_size=32, buffer_size=500, seed=0
        )
    before = [p.clone() for p in model.policy.parameters() if p.requires_grad]
    model.learn(200)
    after = [p for p in model.policy.parameters() if p.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("policy", [EquivariantPolicy, EquivariantDirichletPolicy, DirichletPolicy])
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


def test_evaluate_policy_on_both_kinds_of_environment(tiny):
    env = make_vec_env(2, seed=0, softmax_beta=5.0, **tiny)
    model = PPO(EquivariantPolicy, env, n_steps=16, batch_size=16, seed=0)
    single = SoftmaxCredits(gym.make("ByzantineAggregation-v0", **tiny))
    for where in (env, single):
        returns, lengths = evaluate_policy(model, where, 2, return_episode_rewards=True, warn=False)
        assert np.isfinite(returns).all()
        assert len(lengths) == 2


@pytest.mark.parametrize("policy", EQUIVARIANT)
def test_a_policy_learns_whom_to_trust(tiny, policy):
    beta = 5.0 if policy is EquivariantPolicy else None
    arguments = {
        **tiny,
        "num_byzantine": 2,
        "rounds": 10,
        "qv_size": 30,
        "observation": ["similarity", "trust"],
    }
    env = make_vec_env(16, seed=0, softmax_beta=beta, **arguments)
    model = PPO(policy, env, n_steps=20, batch_size=160, n_epochs=8, learning_rate=3e-3, gamma=0.5, seed=0)
    before = _byzantine_credit(model, arguments, beta)
    model.learn(16 * 20 * 8)
    after = _byzantine_credit(model, arguments, beta)
    assert before > 0.35  # two of four workers: uniform credits give 0.5
    assert after < 0.12


def _byzantine_credit(model, arguments, beta):
    env = make_vec_env(16, seed=1000, softmax_beta=beta, **arguments)
    observation, share = env.reset(), []
    for _ in range(9):
        observation, _, _, infos = env.step(model.predict(observation, deterministic=True)[0])
        share += [info["credits"][info["byzantine"]].sum() for info in infos]
    return np.mean(share)


@pytest.mark.parametrize("part", ["gradients", "similarity", "trust", "loss"])
@pytest.mark.parametrize("action", ["credits", "null_slot"])
def test_a_single_part_is_not_taken_for_the_pooled_observation(tiny, part, action):
    env = make_vec_env(1, observation=part, action=action, **tiny)
    with pytest.raises(ValueError, match="observation must be the pooled Box"):
        PPO(EquivariantPolicy, env)
    listed = make_vec_env(1, observation=[part, "norms"], action=action, **tiny)
    assert EquivariantExtractor(listed.observation_space).rows == tiny["num_workers"]
