"""SoftmaxCredits and RuleSelection."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec

import byzgym
from byzgym import aggregation
from byzgym.wrappers import RuleSelection, SoftmaxCredits, VectorSoftmaxCredits, softmax_credits

TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "attack": "sign_flip", "rounds": 5}
ID = "ByzantineAggregation-v0"


def make(**arguments):
    return gym.make(ID, **{**TINY, **arguments})


def test_softmax_by_hand():
    credits = softmax_credits(np.log([1.0, 2.0, 5.0]), 1.0)
    np.testing.assert_allclose(credits, [0.125, 0.25, 0.625], rtol=1e-6)
    assert credits.dtype == np.float32


@pytest.mark.parametrize(("beta", "mass"), [(1.0, 0.083), (5.0, 3.0e-5)])
def test_least_byzantine_mass(beta, mass):
    logits = np.r_[-np.ones(8), np.ones(12)]
    assert softmax_credits(logits, beta)[:8].sum() == pytest.approx(mass, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "size"), [({}, 6), ({"action": "null_slot"}, 7), ({"secure_group_size": 2}, 3)]
)
def test_softmax_credits_are_applied(arguments, size):
    env = SoftmaxCredits(make(**arguments), beta=2.0)
    assert env.action_space == gym.spaces.Box(-1, 1, (size,), np.float32)
    env.reset(seed=0)
    action = np.linspace(-1, 1, size, dtype=np.float32)
    credits = env.step(action)[4]["credits"]
    np.testing.assert_allclose(credits, softmax_credits(action, 2.0)[: len(credits)], atol=1e-6)


@pytest.mark.parametrize("beta", [0, -1.0, float("nan"), float("inf"), "5", True])
def test_beta_is_checked(beta):
    with pytest.raises(ValueError, match="beta"):
        SoftmaxCredits(make(), beta=beta)


def test_softmax_needs_credits():
    with pytest.raises(ValueError, match="credits"):
        SoftmaxCredits(SoftmaxCredits(make()))
    with pytest.raises(ValueError, match="credits"):
        SoftmaxCredits(RuleSelection(make(), ["mean"]))


def test_vector_softmax_equals_single():
    venv = VectorSoftmaxCredits(gym.make_vec(ID, num_envs=2, **TINY), beta=3)
    single = SoftmaxCredits(make(), beta=3)
    assert venv.single_action_space == single.action_space
    venv.reset(seed=4)
    single.reset(seed=5)
    action = single.action_space.sample()
    together = venv.step(np.stack([action, action]))
    np.testing.assert_allclose(together[0][1], single.step(action)[0], rtol=1e-4, atol=1e-5)


def test_numpy_beta_in_spec():
    env = SoftmaxCredits(make(), beta=np.float32(4))
    assert json.loads(env.spec.to_json())["additional_wrappers"][-1]["kwargs"] == {"beta": 4.0}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: SoftmaxCredits(env, beta=2.5),
        lambda env: RuleSelection(env, rules=["median", {"name": "krum", "num_byzantine": 1}]),
    ],
)
def test_spec_round_trip(wrap):
    env = wrap(make())
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert type(again) is type(env)
    assert again.action_space == env.action_space
    env.reset(seed=1)
    again.reset(seed=1)
    action = env.action_space.sample()
    np.testing.assert_allclose(env.step(action)[0], again.step(action)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_rule_selection_equals_the_rule(number):
    env = RuleSelection(make(), ["median", {"name": "krum", "num_byzantine": 1}, lambda rows: rows.sum(1)])
    env.reset(seed=0)
    server = env.unwrapped
    rows, theta = server.view.gradients.clone(), server.view.theta.clone()
    rule = [
        aggregation.make("median", num_byzantine=2),
        aggregation.make("krum", num_byzantine=1),
        lambda rows: rows.sum(1),
    ][number]
    expected = theta - server.view.learning_rate[:, None] * rule(rows)
    info = env.step(number)[4]
    torch.testing.assert_close(server.view.theta, expected)
    if number == 1:  # Krum's choice is a credit vector
        chosen = aggregation.make("krum", num_byzantine=1).credits(rows)[0]
        assert info["credits"].tolist() == chosen.tolist() == server.view.previous_credits[0].tolist()
    else:
        assert np.isnan(info["credits"]).all()


def test_rule_is_told_the_largest_f_it_accepts():
    env = RuleSelection(
        make(num_workers=6, num_byzantine=(1, 5)), ["krum", "mean", {"name": "krum", "num_byzantine": 0}]
    )
    assert [rule.num_byzantine for rule in env.rules] == [aggregation.Krum.max_byzantine(6), 5, 0]
    assert aggregation.Krum.max_byzantine(6) < 5


def test_attacks_that_know_the_rule_see_the_one_used_last(rules_seen):
    env = RuleSelection(make(attack="curious"), rules=["krum"])
    env.reset(seed=0)
    assert type(rules_seen[-1]) is aggregation.Krum

    env = RuleSelection(env.env, rules=["median", "krum", "mean"])
    env.reset(seed=0)
    assert rules_seen[-1] is env.rules[0]
    for number in (2, 1, 0, 2):
        env.step(number)
        assert rules_seen[-1] is env.rules[number]
    env.reset()
    assert rules_seen[-1] is env.rules[0]


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        (lambda rows: None, TypeError, "must return aggregates as a tensor of real numbers, got NoneType"),
        (
            lambda rows: rows[:, 0, :3],
            ValueError,
            r"must return aggregates of shape \(1, \d+\), got \(1, 3\)",
        ),
    ],
)
def test_what_a_rule_returns_is_checked(rule, error, message):
    env = RuleSelection(make(), [rule])
    env.reset(seed=0)
    with pytest.raises(error, match=message):
        env.step(0)


def test_rejected_rows_do_not_count():
    name = "tests_wrappers_nan"
    byzgym.attacks.register(
        name, lambda: lambda gradients, byzantine, context: torch.full_like(gradients, torch.nan)
    )
    env = RuleSelection(make(attack=name), ["median", lambda rows: rows.sum(1)])
    env.reset(seed=0)
    view = env.unwrapped.view
    assert view.rejected.sum() == 2
    honest = view.gradients[~view.rejected][None]
    expected = view.theta - view.learning_rate[:, None] * honest.quantile(0.5, dim=1)
    env.step(0)
    torch.testing.assert_close(env.unwrapped.view.theta, expected, atol=1e-5, rtol=1e-5)
    env.step(1)
    assert torch.isfinite(env.unwrapped.view.theta).all()


def test_rule_selection_over_other_wrappers():
    plain = RuleSelection(make(), ["krum", "median"])
    wrapped = RuleSelection(gym.wrappers.RecordEpisodeStatistics(make()), ["krum", "median"])
    for env in (plain, wrapped):
        assert env.action_space == gym.spaces.Discrete(2)
        env.reset(seed=0)
    for action in (0, 1, 0):
        assert plain.step(action)[1] == wrapped.step(action)[1]


@pytest.mark.parametrize("wrapper", [SoftmaxCredits, lambda env: RuleSelection(env, ["mean"])])
def test_rule_selection_refuses_wrappers_that_change_its_actions(wrapper):
    with pytest.raises(ValueError, match="env must take credits as actions"):
        RuleSelection(wrapper(make()), ["krum", "median"])


def test_rule_selection_checks_conditions_at_once():
    with pytest.raises(ValueError, match=r"Krum needs n >= 2f \+ 3, got n=6 and num_byzantine=4"):
        RuleSelection(make(), [{"name": "krum", "num_byzantine": 4}])


@pytest.mark.parametrize(
    ("rules", "error"),
    [
        ([], ValueError),
        ("mean", TypeError),
        (["nothing"], ValueError),
        ([{"f": 1}], ValueError),
        ([3], TypeError),
    ],
)
def test_rules_are_checked(rules, error):
    with pytest.raises(error):
        RuleSelection(make(), rules)


@pytest.mark.parametrize("action", [2, -1, 0.5])
def test_rule_number_is_checked(action):
    env = RuleSelection(make(), ["mean", "median"])
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action must be from 0 to 1"):
        env.step(action)


def test_softmax_of_huge_logits():
    credits = softmax_credits(np.array([1000.0, 999.0, -1000.0]), 5.0)
    assert credits.tolist() == pytest.approx([0.9933, 0.0067, 0], abs=1e-4)


def test_specs_of_rule_selection_are_copies():
    spec = {"name": "krum", "num_byzantine": 1}
    env = RuleSelection(make(), [spec])
    spec["num_byzantine"] = 3
    assert env.spec.additional_wrappers[-1].kwargs["rules"] == [{"name": "krum", "num_byzantine": 1}]


def test_rule_selection_needs_an_environment_of_byzgym():
    with pytest.raises(ValueError, match="env must be a ByzantineAggregation environment"):
        RuleSelection(gym.make("CartPole-v1"), ["krum"])
