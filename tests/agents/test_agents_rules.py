"""The rules as agents."""

from functools import partial

import gymnasium as gym
import pytest
import torch
from agent_cases import ID, TINY, mix, normal_view, view_of

from byzgym import agents, aggregation
from byzgym.aggregation import NotLinearError

BUILT_IN = tuple(aggregation.names())
NUM_BYZANTINE = {  # the largest f that each accepts for n = 10, at most 7
    "brute_force": 4,
    "bulyan": 1,
    "faba": 4,
    "geometric_median": 4,
    "krum": 3,
    "mean": 7,
    "mean_around_median": 4,
    "median": 4,
    "medoid": 4,
    "multi_krum": 3,
    "norm_clipping": 7,
    "trimmed_mean": 4,
}


def test_every_rule_is_an_agent():
    assert set(BUILT_IN) <= set(agents.names())
    assert set(BUILT_IN) == set(NUM_BYZANTINE)
    assert agents.names() == sorted(agents.names())


@pytest.mark.parametrize("name", BUILT_IN)
def test_aggregates_what_the_rule_aggregates(name):
    view = normal_view()
    agent = agents.make(name, num_byzantine=1)
    rule = aggregation.make(name, num_byzantine=1)
    expected = torch.stack([rule(rows) for rows in view.gradients])
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(agent.aggregate(view), expected)
    assert agent.linear == rule.linear
    assert not agent.reference
    if rule.linear:
        torch.testing.assert_close(agent.credits(view), rule.credits(view.gradients))
        torch.testing.assert_close(mix(agent.credits(view), view.gradients), expected)
    else:
        with pytest.raises(NotLinearError, match="no credits"):
            agent.credits(view)


@pytest.mark.parametrize("name", BUILT_IN)
def test_f_is_lowered_to_what_the_rule_accepts(name):
    view = normal_view(num_workers=10)
    agent = agents.make(name, num_byzantine=7)
    assert agent.num_byzantine is None
    update = agent.aggregate(view)
    assert agent.num_byzantine == NUM_BYZANTINE[name]
    rule = aggregation.make(name, num_byzantine=NUM_BYZANTINE[name])
    torch.testing.assert_close(update, rule(view.gradients))
    if name not in ("mean", "norm_clipping"):
        with pytest.raises(ValueError, match="the largest it accepts here"):
            aggregation.make(name, num_byzantine=NUM_BYZANTINE[name] + 1)(view.gradients)


def test_f_follows_the_number_of_submissions():
    agent = agents.make("krum", num_byzantine=4)
    for num_workers, expected in ((10, 3), (20, 4), (7, 2), (10, 3)):
        agent.credits(normal_view(num_workers=num_workers))
        assert agent.num_byzantine == expected


@pytest.mark.parametrize("f", [0, 1, 2, 3])
def test_f_that_is_accepted_reaches_the_rule(f):
    view = normal_view(num_envs=40)
    expected = aggregation.make("multi_krum", num_byzantine=f).credits(view.gradients)
    assert torch.equal(agents.make("multi_krum", num_byzantine=f).credits(view), expected)
    assert (expected > 0).sum(1).tolist() == [10 - f] * 40


def test_without_an_environment_the_rule_gets_the_largest_f():
    agent = agents.make("krum")
    agent.credits(normal_view(num_workers=10))
    assert agent.num_byzantine == 3


@pytest.mark.parametrize(
    ("given", "env_f", "expected"), [(None, 1, 1), (None, 7, 3), (2, 7, 2), (None, [1, 2], 2)]
)
def test_bind_takes_the_environments_f(given, env_f, expected):
    env = gym.make(ID, **{**TINY, "num_workers": 10, "num_byzantine": env_f})
    observation, _ = env.reset(seed=0)
    agent = agents.make("krum", num_byzantine=given).bind(env)
    agent.predict(observation)
    assert agent.num_byzantine == expected


def test_bound_to_another_environment_the_rule_gets_that_environments_f():
    agent = agents.make("krum")
    for f in (1, 3, 2):
        env = gym.make(ID, **{**TINY, "num_workers": 10, "num_byzantine": f})
        observation, _ = env.reset(seed=0)
        agent.bind(env).predict(observation)
        assert agent.num_byzantine == f


@pytest.mark.parametrize("make", [gym.make, partial(gym.make_vec, num_envs=2)], ids=["single", "vector"])
def test_attacks_that_know_the_rule_see_that_of_the_bound_agent(make, rules_seen):
    env = make(ID, **{**TINY, "num_workers": 7, "attack": "curious"})
    agent = agents.make("krum").bind(env)
    observation, _ = env.reset(seed=0)
    assert type(rules_seen[-1]) is aggregation.Krum
    assert rules_seen[-1].num_byzantine == 2
    env.step(agent.predict(observation)[0])
    assert rules_seen[-1] is agent.rule
    agents.make("uniform").bind(env)
    env.reset()
    assert type(rules_seen[-1]) is aggregation.Mean


@pytest.mark.parametrize("name", BUILT_IN)
def test_rejected_rows_count_as_absent(name):
    view = normal_view(num_workers=11)
    rejected = torch.zeros(2, 11, dtype=torch.bool)
    rejected[0, [2, 5]] = True
    rejected[1, 9] = True
    view = view_of(view.gradients.masked_fill(rejected[..., None], 0), rejected)
    agent = agents.make(name, num_byzantine=2)
    update = agent.aggregate(view)
    for e, left in ((0, 0), (1, 1)):
        kept = view.gradients[e, ~rejected[e]]
        # Of f = 2, those that were rejected need no more protection.
        rule = aggregation.make(name, num_byzantine=left)
        torch.testing.assert_close(update[e], rule(kept))
        if agent.linear:
            credits = agent.credits(view)[e]
            assert (credits[rejected[e]] == 0).all()
            torch.testing.assert_close(credits[~rejected[e]], rule.credits(kept))


@pytest.mark.parametrize("name", BUILT_IN)
def test_with_all_rows_rejected_nothing_is_credited(name):
    view = view_of(torch.zeros(2, 7, 3), torch.ones(2, 7, dtype=torch.bool))
    agent = agents.make(name, num_byzantine=1)
    assert torch.equal(agent.aggregate(view), torch.zeros(2, 3))
    if agent.linear:
        assert torch.equal(agent.credits(view), torch.zeros(2, 7))


def test_parameters_reach_the_rule():
    view = normal_view()
    credits = agents.make("multi_krum", num_selected=2).credits(view)
    assert sorted(credits[0].tolist()) == [0.0] * 8 + [0.5] * 2
    other = agents.RuleAgent({"name": "multi_krum", "num_selected": 2}, num_byzantine=3).credits(view)
    assert torch.equal(credits, other)


def test_a_rule_object_is_used_as_it_is():
    view = normal_view()
    rule = aggregation.make("multi_krum", num_byzantine=2, num_selected=3)
    agent = agents.RuleAgent(rule, num_byzantine=0)
    assert torch.equal(agent.credits(view), rule.credits(view.gradients))
    assert agent.rule is rule
    assert agent.num_byzantine == 2


def test_unknown_names_and_parameters_are_refused_at_once():
    with pytest.raises(ValueError, match=r"unknown agent 'krumm'; known: .*gaa.*krum.*uniform"):
        agents.make("krumm")
    with pytest.raises(ValueError, match=r"unknown rule 'krumm'; known: .*krum"):
        agents.RuleAgent("krumm")
    with pytest.raises(TypeError, match="num_selected"):
        agents.make("multi_krum", selected=2)
    with pytest.raises(ValueError, match="num_byzantine must be an integer of at least 0, got -1"):
        agents.make("krum", num_byzantine=-1)
    with pytest.raises(ValueError, match="num_selected must be an integer of at least 1, got 0"):
        agents.make("multi_krum", num_selected=0)


def test_too_few_submissions_for_the_rule():
    with pytest.raises(ValueError, match=r"needs n >= 2f \+ 3, got n=2"):
        agents.make("krum").credits(normal_view(num_workers=2))
