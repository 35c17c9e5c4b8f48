"""VectorRuleSelection, beside single environments with RuleSelection, and what it is made of."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from stable_baselines3 import PPO

import byzgym
from byzgym import agents, aggregation
from byzgym.aggregation import RuleOfEach, ServerView
from byzgym.integrations.sb3 import VecEnvAdapter
from byzgym.simulation import Simulation
from byzgym.wrappers import RuleSelection, SoftmaxCredits, VectorRuleSelection, VectorSoftmaxCredits

ID = "ByzantineAggregation-v0"
TINY = {"task": "synthetic", "num_workers": 7, "num_byzantine": 2, "attack": "sign_flip", "rounds": 4}
RULES = ["median", "krum", {"name": "multi_krum", "num_selected": 2}, lambda rows: rows.sum(1) / 10]
NUM_ENVS = 5
ACTIONS = np.random.default_rng(0).integers(len(RULES), size=(7, NUM_ENVS))


def make_vec(num_envs=NUM_ENVS, autoreset_mode="NextStep", **arguments):
    return gym.make_vec(ID, num_envs=num_envs, autoreset_mode=autoreset_mode, **{**TINY, **arguments})


def assert_same_info(info, env, single):
    for name in single:
        np.testing.assert_allclose(info[name][env], single[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "arguments", [{}, {"secure_group_size": 2, "num_workers": 10}, {"action": "null_slot"}]
)
def test_equals_single_environments(arguments):
    venv = VectorRuleSelection(make_vec(**arguments), RULES)
    observations, infos = venv.reset(seed=3)
    singles = [RuleSelection(gym.make(ID, **{**TINY, **arguments}), RULES) for _ in range(NUM_ENVS)]
    for env, single in enumerate(singles):
        observation, info = single.reset(seed=3 + env)
        np.testing.assert_allclose(observations[env], observation, rtol=1e-4, atol=1e-5)
        assert_same_info(infos, env, info)
    over = np.zeros(NUM_ENVS, dtype=bool)
    for actions in ACTIONS:
        observations, rewards, terminated, truncated, infos = venv.step(actions)
        for env, single in enumerate(singles):
            if over[env]:
                observation, info = single.reset()
                reward = 0.0
            else:
                observation, reward, *_, info = single.step(int(actions[env]))
            np.testing.assert_allclose(observations[env], observation, rtol=1e-4, atol=1e-5)
            assert rewards[env] == pytest.approx(reward, abs=1e-4)
            assert_same_info(infos, env, info)
        over = terminated | truncated


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_attacks_are_shown_the_rule_of_their_environment(rules_seen, mode):
    venv = VectorRuleSelection(make_vec(2, mode, attack="curious", rounds=2), ["median", "krum", "mean"])

    def shown():
        return [type(rules_seen[-1].rules[number]).__name__ for number in rules_seen[-1].numbers]

    venv.reset(seed=0)
    assert shown() == ["Median", "Median"]
    venv.step([1, 2])
    assert shown() == ["Krum", "Mean"]
    venv.step([2, 2])  # the last of the episode
    if mode == "NextStep":
        assert shown() == ["Mean", "Mean"]
        venv.step([2, 1])
    assert shown() == ["Median", "Median"]  # a new episode
    venv.step([0, 1])
    assert shown() == ["Median", "Krum"]


def test_attacks_on_some_environments_are_shown_their_rules(rules_seen):
    each = [{"attack": name} for name in ("curious", "sign_flip", "curious")]
    venv = VectorRuleSelection(make_vec(3, per_environment=each), ["median", "krum", "mean"])
    venv.reset(seed=0)
    venv.step([0, 1, 2])
    assert rules_seen[-1].numbers.tolist() == [0, 2]
    rows = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([rows[0].median(0).values, rows[1].mean(0)])
    torch.testing.assert_close(rules_seen[-1](rows), expected)
    venv.reset(options={"reset_mask": np.array([False, False, True])})
    assert rules_seen[-1].numbers.tolist() == [0]
    venv.step([0, 0, 1])
    assert rules_seen[-1].numbers.tolist() == [0, 1]


def test_credits_where_a_rule_gives_them():
    env = make_vec(3, observation="credits")
    venv = VectorRuleSelection(env, ["median", "krum"])
    venv.reset(seed=0)
    rows = env.view.gradients.clone()
    first = venv.step([0, 1, 1])
    chosen = aggregation.make("krum", num_byzantine=2).credits(rows)[1:]
    assert np.isnan(first[4]["credits"][0]).all()
    np.testing.assert_array_equal(first[4]["credits"][1:], chosen)
    uniform = np.full(7, 1 / 7)
    np.testing.assert_allclose(first[0], np.vstack([uniform, chosen]), rtol=1e-6)
    second = venv.step([1, 0, 0])
    np.testing.assert_array_equal(second[0][1:], chosen)  # those given last
    assert second[0][0].tolist() == second[4]["credits"][0].tolist()


def test_rejected_rows_do_not_count():
    byzgym.attacks.register(
        "tests_vector_rules_nan", lambda: lambda rows, byzantine, context: torch.full_like(rows, torch.nan)
    )
    env = make_vec(2, attack="tests_vector_rules_nan")
    venv = VectorRuleSelection(env, ["median", lambda rows: rows.sum(1)])
    venv.reset(seed=0)
    view = env.view
    assert view.rejected.sum(1).tolist() == [2, 2]
    median = view.gradients[0, ~view.rejected[0]].quantile(0.5, dim=0)
    expected = view.theta - view.learning_rate[:, None] * torch.stack([median, view.gradients[1].sum(0)])
    venv.step([0, 1])
    torch.testing.assert_close(env.view.theta, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.global_rng
def test_trains_with_stable_baselines3():
    env = VecEnvAdapter(VectorRuleSelection(make_vec(4, "SameStep"), ["median", "krum", "mean"]))
    assert env.action_space == gym.spaces.Discrete(3)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=16, seed=0).learn(64)
    actions, _ = model.predict(env.reset())
    assert actions.shape == (4,)


@pytest.mark.parametrize(
    "actions",
    [
        [0, 1],
        [0, 1, 2],
        [0, -1, 1],
        [0.0, 1.0, 0.0],
        1,
        [[0], [1], [0]],
        None,
        ["0", "1", "0"],
        [[0], [1, 0], 1],
    ],
)
def test_actions_are_checked(actions):
    venv = VectorRuleSelection(make_vec(3), ["mean", "median"])
    venv.reset(seed=0)
    with pytest.raises(ValueError, match="actions must be 3 whole numbers from 0 to 1"):
        venv.step(actions)
    assert venv.env.view.round.tolist() == [0, 0, 0]


def test_environments_are_checked():
    with pytest.raises(ValueError, match="env must take credits as actions"):
        VectorRuleSelection(VectorSoftmaxCredits(make_vec()), ["mean"])
    with pytest.raises(ValueError, match="env must take credits as actions"):
        VectorRuleSelection(VectorRuleSelection(make_vec(), ["mean"]), ["mean"])
    with pytest.raises(ValueError, match="actions must be credits"):
        VectorSoftmaxCredits(VectorRuleSelection(make_vec(), ["mean"]))
    with pytest.raises(ValueError, match="env must be a ByzantineAggregation environment"):
        VectorRuleSelection(SyncVectorEnv([lambda: SoftmaxCredits(gym.make(ID, **TINY))]), ["mean"])
    with pytest.raises(ValueError, match="unknown rule 'nothing'"):
        VectorRuleSelection(make_vec(), ["nothing"])
    with pytest.raises(TypeError, match="rules must be a list"):
        VectorRuleSelection(make_vec(), "mean")


def test_rule_of_each():
    rules = [lambda rows: rows.sum(-2), lambda rows: rows.amax(-2).double()]
    numbers = torch.tensor([1, 0, 1])
    each = RuleOfEach(rules, numbers)
    numbers.zero_()
    rows = torch.arange(24.0).reshape(3, 4, 2)
    expected = torch.stack([rows[0].amax(0), rows[1].sum(0), rows[2].amax(0)])
    torch.testing.assert_close(each(rows), expected)
    torch.testing.assert_close(each(rows[:, None].expand(3, 5, 4, 2)), expected[:, None].expand(3, 5, 2))
    torch.testing.assert_close(each.of([2, 1])(rows[[2, 1]]), expected[[2, 1]])
    for wrong in (rows[:2], rows[0]):
        with pytest.raises(ValueError, match=r"gradients must be of shape \[3, ..., n, d\], got"):
            each(wrong)


def test_simulation_remembers_the_rules_of_its_environments(rules_seen):
    simulation = Simulation.make(2, seed=0, **{**TINY, "attack": "curious"})
    rules = [aggregation.Median(), aggregation.Mean()]

    def shown():
        return rules_seen[-1].numbers.tolist()

    simulation.use_rules(rules, torch.tensor([1, 1]))
    snapshot = simulation.snapshot()
    simulation.apply(simulation.gradients.mean(1))
    assert shown() == [1, 1]
    simulation.reset([5], [0])
    assert shown() == [0]
    simulation.apply(simulation.gradients.mean(1))
    assert shown() == [0, 1]
    simulation.restore(snapshot)
    simulation.apply(simulation.gradients.mean(1))
    assert shown() == [1, 1]
    simulation.rule = rules[0]
    simulation.apply(simulation.gradients.mean(1))
    assert rules_seen[-1] is rules[0]


def test_numbers_of_rules_are_checked_and_copied():
    simulation = Simulation.make(2, seed=0, **TINY)
    rules = [aggregation.Median(), aggregation.Krum(), aggregation.Mean()]
    numbers = torch.tensor([2, 1])
    simulation.use_rules(rules, numbers)
    snapshot = simulation.snapshot()
    simulation.reset([5, 6])
    assert numbers.tolist() == [2, 1]
    for wrong, several in (([2, 1], rules[:2]), ([0], rules), ([-1, 0], rules), ([0, 0], [])):
        with pytest.raises(ValueError, match=r"must be an int64 tensor of 2 of the numbers of . r"):
            simulation.use_rules(several, torch.tensor(wrong))
    for form in ([0, 0], torch.zeros(2), torch.zeros(2, 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"must be an int64 tensor of 2"):
            simulation.use_rules(rules, form)
    assert simulation.rule.numbers.tolist() == [0, 0]
    simulation.use_rules(rules[:2])
    with pytest.raises(ValueError, match=r"snapshot must be .* got one with more rules"):
        simulation.restore(snapshot)


def test_a_reset_of_some_environments_leaves_the_others_their_rules():
    env = make_vec(3, "Disabled")
    venv = VectorRuleSelection(env, ["median", "krum", "mean"])
    venv.reset(seed=0)
    venv.step([1, 2, 1])
    venv.reset(options={"reset_mask": np.array([True, False, False])})
    assert env.unwrapped.simulation.rule.numbers.tolist() == [0, 2, 1]
    agents.make("mean").bind(env)
    venv.reset(seed=0)
    assert env.unwrapped.simulation.rule.numbers.tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_a_rule_may_return_another_type(dtype):
    rules = [lambda rows: rows.sum(1).to(dtype), "mean"]
    venv = VectorRuleSelection(make_vec(2), rules)
    single = RuleSelection(gym.make(ID, **TINY), rules)
    venv.reset(seed=0)
    single.reset(seed=0)
    assert venv.step([0, 1])[1][0] == pytest.approx(single.step(0)[1], abs=1e-4)


def test_rules_are_told_the_largest_f():
    each = [{"num_byzantine": 0}, {"num_byzantine": (1, 3)}, {}]
    env = make_vec(3, per_environment=each)
    assert VectorRuleSelection(env, ["trimmed_mean"]).rules[0].num_byzantine == 3
    assert agents.make("trimmed_mean").bind(env).num_byzantine == 3


def test_view_of_some_runs():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(3, 5, generator=generator)
    view = ServerView(
        gradients=torch.randn(3, 4, 5, generator=generator).index_fill(1, torch.tensor([2]), torch.nan),
        theta=torch.randn(3, 5, generator=generator),
        learning_rate=torch.tensor([0.1, 0.2, 0.3]),
        qv_loss=lambda theta: (theta - target).square().sum(1),
        round=torch.tensor([4, 5, 6]),
    )
    runs = torch.tensor([2, 0])
    part = view.of(runs)
    for name in (
        "gradients",
        "theta",
        "learning_rate",
        "round",
        "rejected",
        "previous_update",
        "previous_credits",
        "qv_value",
        "qv_gradient",
    ):
        torch.testing.assert_close(getattr(part, name), getattr(view, name)[runs], msg=name)
    assert part.rejected[:, 2].all()
    with pytest.raises(ValueError, match="runs must name each run once, got"):
        view.of(torch.tensor([1, 1]))


def test_view_of_some_environments_in_inference_mode():
    """It is as good as the whole view: usable in and after inference mode, and it can be pickled."""
    view = Simulation.make(3, seed=0, **TINY).view
    runs = torch.tensor([2, 0])
    with torch.inference_mode():
        part = view.of(runs)
        torch.testing.assert_close(part.qv_gradient, view.qv_gradient[runs])
    theta = part.theta.clone().requires_grad_()
    part.qv_loss(theta).sum().backward()
    torch.testing.assert_close(theta.grad, part.qv_gradient)
    again = pickle.loads(pickle.dumps(view.of(runs)))
    torch.testing.assert_close(again.qv_value, part.qv_value)
