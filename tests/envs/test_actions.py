"""The four kinds of actions: into decisions, back from policies' decisions, and what is refused."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from byzgym import agents, aggregation, attacks
from byzgym.aggregation import Decision, NotLinearError
from byzgym.integrations.sb3 import VecEnvAdapter

ID = "ByzantineAggregation-v0"
TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "rounds": 10, "pool_size": 8}
RULES = ["median", "krum:num_byzantine=1", {"name": "multi_krum", "num_selected": 2}]
OVERFLOW = "omniscient:factor=3e38"


def make(**arguments):
    return gym.make(ID, **{**TINY, **arguments})


def started(**arguments):
    env = make(**arguments).unwrapped
    env.reset(seed=0)
    return env


def make_vec(num_envs=3, **arguments):
    return gym.make_vec(ID, num_envs=num_envs, **{**TINY, **arguments})


def test_credits_are_normalised():
    env = started(attack="none")
    point = np.array([0.5, 0.25, 0.125, 0.0625, 0.03125, 0.03125], np.float32)
    for action, credits in [
        (point, point),
        (point / 2, point),
        (point * 7, point),
        (np.zeros(6), np.full(6, 1 / 6)),
        (np.eye(6)[2], np.eye(6)[2]),
        (np.full(6, 1e308), np.full(6, 1 / 6)),
        (np.full(6, True), np.full(6, 1 / 6)),
    ]:
        info = env.step(action)[4]
        np.testing.assert_allclose(info["credits"], credits, rtol=1e-6)
    assert np.array_equal(env.step(point)[4]["credits"], point)  # to the last bit


@pytest.mark.parametrize("excess", [5e-4, -5e-4, 2e-6, -2e-6, 1e-7])
def test_sums_of_almost_one(excess):
    env = started(num_workers=2, num_byzantine=0, attack="none")
    action = np.array([0.25, 0.75]) * (1 + excess)
    credits = env.step(action)[4]["credits"]
    expected = action if abs(excess) < 1e-6 else [0.25, 0.75]
    assert np.array_equal(credits, np.float32(expected))


def test_credits_weigh_the_gradients():
    env = started()
    gradients, theta = env.view.gradients[0].clone(), env.view.theta[0].clone()
    credits = torch.tensor([0.5, 0.3, 0.2, 0, 0, 0])
    env.step(credits.numpy())
    torch.testing.assert_close(env.view.theta[0], theta - env.view.learning_rate[0] * (credits @ gradients))


def test_null_slot_takes_the_rest():
    env = started(attack="none", action="null_slot")
    info = env.step(np.array([0.1, 0.2, 0, 0, 0, 0, 0.7], np.float32))[4]
    np.testing.assert_allclose(info["credits"], [0.1, 0.2, 0, 0, 0, 0], rtol=1e-6)
    assert env.step(np.eye(7, dtype=np.float32)[6])[4]["update_norm"] == 0
    np.testing.assert_allclose(env.step(np.zeros(7))[4]["credits"], 1 / 7, rtol=1e-6)


@pytest.mark.parametrize(("action", "moved"), [("credits", True), ("null_slot", False)])
def test_credit_of_rejected_rows(action, moved):
    env = started(attack=OVERFLOW, action=action)
    size = env.action_space.shape[0]
    info = env.step(np.full(size, 1 / size))[4]
    share = 1 / 4 if moved else 1 / 7
    np.testing.assert_allclose(info["credits"], np.where(info["rejected"], 0, share), rtol=1e-6)


@pytest.mark.parametrize(
    "action",
    [
        np.zeros(5, np.float32),
        np.zeros((1, 6), np.float32),
        np.float32(1),
        np.array([np.nan, 1, 1, 1, 1, 1]),
        np.array([np.inf, 1, 1, 1, 1, 1]),
        np.array([-0.5, 1, 1, 1, 1, 1]),
        None,
        "credits",
        np.array(["1"] * 6),
        np.array([1.0] * 5 + [None]),
        np.ones(6, complex),
        [[1], [2, 3]],
        torch.ones(6, requires_grad=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["credits", "update", "rule"])
def test_bad_actions_change_nothing(action, kind):
    env = started(action=kind, rules=RULES if kind == "rule" else None)
    state = env.simulation.snapshot()["state"]
    with pytest.raises(ValueError, match="action must"):
        env.step(action)
    for owner, values in env.simulation.snapshot()["state"].items():
        assert all(torch.equal(value, state[owner][name]) for name, value in values.items())


def test_an_update_is_applied_as_it_is():
    env = started(action="update")
    assert env.action_space.shape == (env.simulation.num_parameters,)
    update = torch.linspace(-1, 1, env.simulation.num_parameters)
    theta, rate = env.view.theta.clone(), float(env.view.learning_rate[0])
    info = env.step(update.numpy())[4]
    torch.testing.assert_close(env.view.theta, theta - rate * update)
    assert "credits" not in info
    assert (env.view.previous_credits == 1 / 6).all()  # those of the last round that had any


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_rule_number_applies_the_rule(number):
    env = started(action="rule", rules=RULES, attack="sign_flip")
    rows, theta = env.view.gradients.clone(), env.view.theta.clone()
    rule = env.actions.rules[number]
    info = env.step(number)[4]
    torch.testing.assert_close(env.view.theta, theta - env.view.learning_rate[:, None] * rule(rows))
    if rule.linear:
        assert info["credits"].tolist() == rule.credits(rows)[0].tolist()
    assert ("credits" in info) == rule.linear


@pytest.mark.parametrize("number", [3, -1, 0.5, [0], True, "0", None])
def test_rule_numbers_are_checked(number):
    with pytest.raises(ValueError, match="action must be"):
        started(action="rule", rules=RULES).step(number)


def test_rules_are_told_the_largest_f_they_accept():
    env = make(num_byzantine=(1, 5), action="rule", rules=["krum", "mean", "krum:num_byzantine=0"])
    assert [rule.num_byzantine for rule in env.unwrapped.actions.rules] == [1, 5, 0]
    each = [{"num_byzantine": 0}, {"num_byzantine": (1, 3)}, {}]
    venv = make_vec(num_workers=9, per_environment=each, action="rule", rules=["trimmed_mean"])
    assert venv.unwrapped.actions.rules[0].num_byzantine == 3


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"action": "rule"}, "rules must be a list"),
        ({"action": "rule", "rules": []}, "rules must be a list"),
        ({"action": "rule", "rules": "mean"}, "rules must be a list"),
        ({"action": "rule", "rules": ["meen"]}, "did you mean 'mean'"),
        ({"action": "rule", "rules": ["krum:num_byzantine=4"]}, r"Krum needs n >= 2f \+ 3"),
        ({"rules": ["mean"]}, "rules is for action='rule'"),
        ({"action": "vote"}, "action must be one of"),
    ],
)
def test_bad_kinds_and_rules_are_named(arguments, error):
    with pytest.raises((ValueError, TypeError), match=error):
        make(**arguments)


def test_rules_may_be_objects():
    env = started(action="rule", rules=[aggregation.Median(), lambda rows: rows.sum(-2)], attack=OVERFLOW)
    view = env.view
    expected = view.theta - view.learning_rate[:, None] * view.gradients[~view.rejected].sum(0)
    env.step(1)  # a callable is given the accepted rows
    torch.testing.assert_close(env.view.theta, expected)


@pytest.mark.parametrize("result", [lambda rows: None, lambda rows: rows[:, 0, :3]])
def test_what_a_rule_returns_is_checked(result):
    with pytest.raises((TypeError, ValueError), match="the result of rule '<lambda>' must"):
        started(action="rule", rules=[result]).step(0)


def test_a_rule_that_fails_changes_nothing():
    env = started(action="rule", rules=["mean", lambda rows: rows.missing])
    before = env.simulation.snapshot()["state"]["simulation"]
    with pytest.raises(AttributeError):
        env.step(1)
    after = env.simulation.snapshot()["state"]["simulation"]
    assert all(torch.equal(after[name], value) for name, value in before.items())


class Broken(aggregation.Mean):
    def _credits(self, gradients):
        return gradients.missing


def broken(rows):
    return rows.missing


@pytest.mark.parametrize(
    ("rule", "notes"),
    [
        (broken, ["raised by rule 'broken'"]),
        (Broken(), ["raised by rule 'Broken'"]),
        ("test_broken:strength=2", ["raised by rule 'test_broken:strength=2'"]),
        ("test_broken_pre+mean", ["raised by pre-aggregator 'test_broken_pre'", "raised by rule '{}'"]),
    ],
)
def test_a_rule_that_fails_is_named(rule, notes):
    aggregation.register("test_broken", lambda strength: broken)
    aggregation.pre.register("test_broken_pre", lambda: broken)
    env = started(action="rule", rules=["mean", rule])
    with pytest.raises(AttributeError) as caught:
        env.step(1)
    assert caught.value.__notes__ == [note.format(rule) for note in notes]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("kind", ["rule", "update"])
def test_vector_equals_single(mode, kind):
    arguments = {
        "attack": "sign_flip",
        "action": kind,
        "rules": RULES if kind == "rule" else None,
        "rounds": 4,
    }
    venv = make_vec(autoreset_mode=mode, **arguments)
    singles = [make(**arguments) for _ in range(3)]
    venv.reset(seed=3)
    for env, single in enumerate(singles):
        single.reset(seed=3 + env)
    generator, over = np.random.default_rng(0), np.zeros(3, bool)
    for _ in range(9):
        size = venv.action_space.shape
        actions = generator.integers(3, size=size) if kind == "rule" else generator.normal(size=size)
        observations, rewards, terminated, truncated, infos = venv.step(actions)
        for env, single in enumerate(singles):
            if mode == "NextStep" and over[env]:
                observation, info = single.reset()
                reward = 0.0
            else:
                observation, reward, end, late, info = single.step(actions[env])
                if mode == "SameStep" and (end or late):
                    observation, info = single.reset()
            np.testing.assert_allclose(observations[env], observation, rtol=1e-3, atol=1e-4)
            assert rewards[env] == pytest.approx(reward, abs=1e-4)
            assert infos.get("_credits", np.zeros(3, bool))[env] == ("credits" in info)
        over = terminated | truncated


def test_attacks_see_the_rule_used_last(rules_seen):
    env = make(attack="curious", action="rule", rules=["median", "krum", "mean"])
    env.reset(seed=0)
    rows = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0))
    for number, name in ((None, "median"), (2, "mean"), (0, "median"), (1, "krum")):
        if number is not None:
            env.step(number)
        expected = aggregation.make_for(name, 6, 2)(rows)
        torch.testing.assert_close(rules_seen[-1](rows), expected)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_attacks_see_their_environments_rule(rules_seen, mode):
    venv = make_vec(
        2, autoreset_mode=mode, attack="curious", rounds=2, action="rule", rules=["median", "krum", "mean"]
    )
    venv.reset(seed=0)
    assert rules_seen[-1].numbers.tolist() == [0, 0]
    venv.step(np.array([1, 2]))
    assert rules_seen[-1].numbers.tolist() == [1, 2]
    venv.step(np.array([2, 2]))  # the last round of the episode
    if mode == "NextStep":
        venv.step(np.array([2, 1]))
    assert rules_seen[-1].numbers.tolist() == [0, 0]


@pytest.mark.global_rng
def test_choosing_rules_trains_with_sb3():
    env = VecEnvAdapter(make_vec(autoreset_mode="SameStep", action="rule", rules=["median", "krum", "mean"]))
    assert env.action_space == gym.spaces.Discrete(3)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=12, seed=0).learn(48)
    assert model.predict(env.reset())[0].shape == (3,)


def test_encode_and_decode_are_inverse():
    for kind, name in (("credits", "krum"), ("null_slot", "krum"), ("update", "median")):
        env = started(action=kind, attack="sign_flip")
        decision = agents.build(name, env.simulation).decide(env.view)
        again = env.actions.decode(env.actions.encode(decision, env.view), env.view)
        torch.testing.assert_close(again.update, decision.update)


def test_credits_below_one_are_scaled_up():
    env = started()
    for short in (0.1, 1e-20):
        decision = Decision.from_credits(torch.tensor([[short, short, 2 * short, 0, 0, 0]]), env.view)
        np.testing.assert_allclose(env.actions.encode(decision, env.view), [[0.25, 0.25, 0.5, 0, 0, 0]])
    none = Decision.from_credits(torch.zeros(1, 6), env.view)
    assert not env.actions.encode(none, env.view).any()


def test_what_credits_cannot_say_is_refused():
    env = started()
    with pytest.raises(NotLinearError, match="action='update'"):
        env.actions.encode(Decision(env.view.theta), env.view)


def test_divergence_in_an_update_environment():
    env = started(action="update")
    largest = env.action_space.high
    _, reward, terminated, *_ = env.step(largest)
    assert terminated
    assert reward == -10
    attacks.register("test_nothing", lambda: lambda gradients, byzantine, context: gradients)
    assert env.reset(seed=1, options={"attack": "test_nothing"})[1]["attack"] == "test_nothing"
