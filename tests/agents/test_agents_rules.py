"""The rules as agents, and agents registered from outside."""

import pytest
import torch
from agent_cases import ID, TINY, assert_on_simplex, make, mix, normal_view, view_of

from byzgym import agents, aggregation
from byzgym.agents.registry import registry
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


@pytest.fixture
def own_names():
    """Takes back what a test registers."""
    rules, known = aggregation.registry.registry._factories, registry._factories
    before = dict(rules), dict(known)
    yield
    for factories, saved in zip((rules, known), before, strict=True):
        factories.clear()
        factories.update(saved)


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
    import gymnasium as gym

    env = gym.make(ID, **{**TINY, "num_workers": 10, "num_byzantine": env_f})
    observation, _ = env.reset(seed=0)
    agent = agents.make("krum", num_byzantine=given).bind(env)
    agent.predict(observation)
    assert agent.num_byzantine == expected


def test_bound_to_another_environment_the_rule_gets_that_environments_f():
    import gymnasium as gym

    agent = agents.make("krum")
    for f in (1, 3, 2):
        env = gym.make(ID, **{**TINY, "num_workers": 10, "num_byzantine": f})
        observation, _ = env.reset(seed=0)
        agent.bind(env).predict(observation)
        assert agent.num_byzantine == f


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


@pytest.mark.usefixtures("own_names")
def test_a_registered_callable_is_a_rule_and_an_agent():
    aggregation.register("twice_the_first", lambda: lambda rows: 2 * rows[..., 0, :])
    assert "twice_the_first" in agents.names()
    agent, view = agents.make("twice_the_first"), normal_view()
    torch.testing.assert_close(agent.aggregate(view), 2 * view.gradients[:, 0])
    assert agent.num_byzantine is None
    with pytest.raises(NotLinearError):
        agent.credits(view)


@pytest.mark.usefixtures("own_names")
def test_a_registered_weighting_gives_credits():
    class First(aggregation.Weighting):
        def _credits(self, gradients):
            return torch.eye(gradients.shape[-2])[0].expand(gradients.shape[:-1])

    aggregation.register("first", First)
    agent, view = agents.make("first"), normal_view()
    assert agent.linear
    assert torch.equal(agent.credits(view)[:, 0], torch.ones(2))
    rejected = torch.zeros(2, 10, dtype=torch.bool)
    rejected[:, 0] = True
    credits = agent.credits(view_of(view.gradients, rejected))
    assert torch.equal(credits[:, 1], torch.ones(2))


@pytest.mark.usefixtures("own_names")
def test_a_registered_object_with_credits_is_an_agent():
    class Last:
        resets = 0

        def reset(self):
            self.resets += 1

        def credits(self, view):
            return torch.eye(view.num_workers)[-1].repeat(view.num_envs, 1)

    last = Last()
    agents.register("last", lambda: last)
    assert "last" in agents.names()
    agent, view = agents.make("last"), normal_view()
    assert isinstance(agent, agents.Agent)
    assert agent.linear
    assert agent.wrapped is last
    torch.testing.assert_close(agent.aggregate(view), view.gradients[:, -1])
    agent.reset()
    assert last.resets == 1
    rejected = torch.zeros(2, 10, dtype=torch.bool)
    rejected[:, -1] = True
    credits = agent.credits(view_of(view.gradients, rejected))
    assert_on_simplex(credits)
    assert (credits[:, -1] == 0).all()


@pytest.mark.usefixtures("own_names")
def test_a_registered_object_with_aggregate_is_an_agent():
    class Largest:
        def aggregate(self, view):
            return view.gradients.max(1).values

    agents.register("largest", Largest)
    agent, view = agents.make("largest"), normal_view()
    assert not agent.linear
    assert torch.equal(agent.aggregate(view), view.gradients.max(1).values)
    with pytest.raises(NotLinearError, match="Largest has no credits"):
        agent.credits(view)
    agent.reset()

    import gymnasium as gym

    env = gym.make(ID, **TINY)
    observation, _ = env.reset(seed=0)
    expected = env.unwrapped.view.gradients.max(1).values.clone()
    action, _ = agent.bind(env).predict(observation)
    info = env.step(action)[4]
    assert torch.equal(env.unwrapped.view.previous_update, expected)
    assert all(value != value for value in info["credits"])


@pytest.mark.usefixtures("own_names")
def test_a_registered_agent_subclass_is_taken_as_it_is():
    class Mine(agents.Agent):
        def __init__(self, which=0):
            self.which = which

        def credits(self, view):
            return torch.eye(view.num_workers)[self.which].repeat(view.num_envs, 1)

    agents.register("mine", Mine)
    agent = agents.make("mine", which=3)
    assert isinstance(agent, Mine)
    assert agent.credits(make().view)[:, 3].tolist() == [1, 1]
    with pytest.raises(TypeError, match="which"):
        agents.make("mine", what=3)
    with pytest.raises(TypeError, match="Mine learns nothing"):
        agent.save("nowhere")
    with pytest.raises(TypeError, match="Mine learns nothing"):
        agent.load("nowhere")


@pytest.mark.usefixtures("own_names")
def test_an_object_that_decides_nothing_is_refused():
    agents.register("nothing", object)
    with pytest.raises(TypeError, match=r"needs credits\(view\) or aggregate\(view\)"):
        agents.make("nothing")


@pytest.mark.usefixtures("own_names")
def test_names_of_byzgym_cannot_be_taken():
    for name, kind in (("krum", "is the rule of that name"), ("gaa", "is built in")):
        with pytest.raises(ValueError, match=kind):
            agents.register(name, object)
    with pytest.raises(ValueError, match="non-empty string"):
        agents.register("", object)
    with pytest.raises(TypeError, match="must be callable"):
        agents.register("mine", 3)
    assert "mine" not in agents.names()
