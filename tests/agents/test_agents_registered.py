"""Agents and rules registered from outside."""

from functools import partial

import gymnasium as gym
import pytest
import torch
from agent_cases import ID, TINY, assert_on_simplex, make, normal_view, view_of

from byzgym import agents, aggregation
from byzgym.aggregation import NotLinearError
from byzgym.experiments import policies
from byzgym.wrappers import RuleSelection


def test_a_registered_callable_is_a_rule_and_an_agent():
    aggregation.register("twice_the_first", lambda: lambda rows: 2 * rows[..., 0, :])
    assert "twice_the_first" in agents.names()
    agent, view = agents.make("twice_the_first"), normal_view()
    torch.testing.assert_close(agent.aggregate(view), 2 * view.gradients[:, 0])
    assert agent.num_byzantine is None
    with pytest.raises(NotLinearError):
        agent.credits(view)


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
    env = gym.make(ID, **TINY)
    observation, _ = env.reset(seed=0)
    expected = env.unwrapped.view.gradients.max(1).values.clone()
    action, _ = agent.bind(env).predict(observation)
    info = env.step(action)[4]
    assert torch.equal(env.unwrapped.view.previous_update, expected)
    assert all(value != value for value in info["credits"])


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


def test_an_object_that_decides_nothing_is_refused():
    agents.register("nothing", object)
    with pytest.raises(TypeError, match=r"needs credits\(view\) or aggregate\(view\)"):
        agents.make("nothing")


def test_names_of_byzgym_cannot_be_taken():
    for name, kind in (("krum", "is the rule of that name"), ("gaa", "is built in")):
        with pytest.raises(ValueError, match=kind):
            agents.register(name, object)
    with pytest.raises(ValueError, match="non-empty string"):
        agents.register("", object)
    with pytest.raises(TypeError, match="must be callable"):
        agents.register("mine", 3)
    assert "mine" not in agents.names()


def test_an_agent_goes_before_a_rule_of_ones_own_with_the_same_name():
    class First:
        def credits(self, view):
            return torch.eye(view.num_workers)[0].repeat(view.num_envs, 1)

    aggregation.register("mine", lambda: lambda rows: rows.sum(-2))
    assert isinstance(agents.make("mine"), agents.RuleAgent)
    agents.register("mine", First)
    assert agents.make("mine").credits(normal_view())[:, 0].tolist() == [1, 1]
    assert agents.names().count("mine") == 1
    rows = torch.eye(3)
    assert torch.equal(aggregation.make("mine")(rows), rows.sum(0))  # still the rule
    with pytest.raises(ValueError, match="'median' is the rule of that name"):
        agents.register("median", First)


class Careless:
    """Stands for an agent and for a rule: both have credits."""

    linear = True

    def __init__(self, given):
        self.given = given

    def credits(self, seen):
        return self.given

    def __call__(self, gradients):
        return gradients.mean(-2)

    def __repr__(self):
        return "Careless(of_the_tests)"


def predict_as_an_agent(careless, env):
    agents.register("careless", lambda: careless)
    agents.make("careless").bind(env).predict(env.reset(seed=0)[0])


def predict_as_a_subclass(careless, env):
    class Mine(agents.Agent):
        credits = careless.credits
        __repr__ = careless.__repr__  # bound methods, so that they stay careless's own

    Mine().bind(env).predict(env.reset(seed=0)[0])


def predict_as_a_rule(careless, env):
    aggregation.register("careless", lambda: careless)
    agents.make("careless").bind(env).predict(env.reset(seed=0)[0])


def select_as_a_rule(careless, env):
    aggregation.register("careless", lambda: careless)
    env = RuleSelection(env, ["careless"])
    env.reset(seed=0)
    env.step(0)


@pytest.mark.parametrize(
    "play", [predict_as_an_agent, predict_as_a_subclass, predict_as_a_rule, select_as_a_rule]
)
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, TypeError, "as a tensor of real numbers, got NoneType"),
        (torch.full((1, 2), 0.5), ValueError, r"of shape \(1, 6\), got \(1, 2\)"),
        (torch.full((6,), 1 / 6), ValueError, r"of shape \(1, 6\), got \(6,\)"),
        (torch.tensor([[2.0, -1.0, 0, 0, 0, 0]]), ValueError, "not negative and sum to at most 1"),
        (torch.full((1, 6), torch.nan), ValueError, "not negative and sum to at most 1"),
        (torch.ones(1, 6), ValueError, "not negative and sum to at most 1"),
    ],
    ids=["None", "two of six", "of no environment", "negative", "not a number", "sum of six"],
)
def test_what_are_no_credits_is_refused_with_its_authors_name(play, given, error, message):
    with pytest.raises(error, match=rf"Careless\(of_the_tests\) must give credits .*{message}"):
        play(Careless(given), gym.make(ID, **TINY))


class Plain:
    """A rule that knows nothing of f."""

    def __call__(self, rows):
        return rows[..., 0, :]


class Scaled(aggregation.Weighting):
    """A rule with parameters of its own only."""

    def __init__(self, power=1):
        super().__init__()
        self.power = power

    def _credits(self, gradients):
        return gradients.new_full(gradients.shape[:-1], 1 / gradients.shape[-2])


class Strict(aggregation.Mean):
    """A rule that is not even made with too large an f."""

    @classmethod
    def max_byzantine(cls, num_workers):
        return 2

    def __init__(self, num_byzantine=0):
        if num_byzantine > 2:
            raise ValueError("too many")
        super().__init__(num_byzantine)


def with_f(num_byzantine):
    return aggregation.make("krum", num_byzantine=num_byzantine)


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        (lambda **parameters: aggregation.make("krum", **parameters), 3),
        (lambda num_byzantine=0: aggregation.make("krum", num_byzantine=num_byzantine), 3),
        (with_f, 3),
        (lambda: aggregation.make("krum", num_byzantine=1), 1),
        (partial(aggregation.Krum, num_byzantine=1), 1),
        (partial(aggregation.Krum, 1), 1),
        (Strict, 2),
        (Plain, None),
        (Scaled, 0),
    ],
)
def test_rules_are_told_f_where_their_factory_takes_it(factory, told):
    aggregation.register("told", factory)
    for rule in (
        aggregation.make_within("told", 10, 7),
        RuleSelection(gym.make(ID, **{**TINY, "num_workers": 10, "num_byzantine": 7}), ["told"]).rules[0],
    ):
        assert getattr(rule, "num_byzantine", None) == told
    env = gym.make(ID, **{**TINY, "num_workers": 10, "num_byzantine": 7})
    env.reset(seed=0)
    agent = agents.make("told").bind(env)
    env.step(agent.predict(None)[0])
    assert agent.num_byzantine == told
    note = policies.told("told", 10, 7)
    assert (note and note.told) == (told if told in (2, 3) else None)


def test_what_a_foreign_agent_can_save_it_can_save(tmp_path):
    class Saving:
        def credits(self, view):
            return torch.full_like(view.previous_credits, 1 / view.num_workers)

        def save(self, path):
            path.write_text("saved")

    agents.register("saving", Saving)
    agent = agents.make("saving")
    agent.save(tmp_path / "agent")
    assert (tmp_path / "agent").read_text() == "saved"
    with pytest.raises(TypeError, match=r"Saving has no method load\(path\)"):
        agent.load(tmp_path / "agent")


@pytest.mark.parametrize("kind", ["in place", "class method"])
def test_a_foreign_agent_is_returned_once_it_has_loaded(tmp_path, kind):
    class Base:
        loaded, save = False, True  # not a method

        def credits(self, view):
            return torch.full_like(view.previous_credits, 1 / view.num_workers)

    class InPlace(Base):
        def load(self, path):
            self.loaded = True

    class ByClass(Base):
        @classmethod
        def load(cls, path):
            agent = cls()
            agent.loaded = True
            return agent

    agents.register("loading", InPlace if kind == "in place" else ByClass)
    agent = agents.make("loading")
    assert agent.load(tmp_path) is agent
    assert agent.wrapped.loaded
    with pytest.raises(TypeError, match="has no method save"):
        agent.save(tmp_path)


def test_agents_do_without_a_simulation():
    inner = gym.make(ID, **TINY).unwrapped
    inner.reset(seed=0)

    class Job(gym.Env):
        """A training job that offers a view, and no simulation."""

        action_space, observation_space = inner.action_space, inner.observation_space

        @property
        def view(self):
            return inner.view

        def use_update(self, update, credits=None):
            inner.use_update(update, credits)

    for name in ("krum", "median", "gaa", "uniform"):
        assert agents.make(name).bind(Job()).predict(None)[0].shape == (TINY["num_workers"],)
    fresh, bound = agents.make("krum").bind(Job()), agents.make("krum")
    bound.bind(inner).predict(None)
    bound.bind(Job())
    for agent in (fresh, bound):
        agent.predict(None)
    assert bound.num_byzantine == fresh.num_byzantine == aggregation.Krum.max_byzantine(TINY["num_workers"])


def test_a_factory_without_a_signature_is_told_nothing():
    class Unsigned:
        """Like some built-in classes, which inspect cannot read."""

        @property
        def __signature__(self):
            raise ValueError("no signature found")

        def __call__(self, **parameters):
            return parameters

    aggregation.register("unsigned", Unsigned())
    assert aggregation.make_within("unsigned", 10, 3) == {}
