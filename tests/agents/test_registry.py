"""Names of agents: built-in ones, rules, and those from outside."""

import inspect
import pickle

import pytest
import torch
from agent_cases import make, normal_view

from byzgym import agents, aggregation
from byzgym.agents.registry import registry
from byzgym.aggregation.registry import registry as rules


class First(agents.Agent):
    def __init__(self, which=0):
        self.which = which

    def decide(self, view):
        credits = torch.eye(view.num_workers)[self.which].repeat(view.num_envs, 1)
        return aggregation.Decision.from_credits(credits, view)


def test_every_rule_is_an_agent():
    assert set(aggregation.names()) <= set(agents.names())
    assert agents.names() == sorted(agents.names())


def test_a_registered_agent_is_taken_as_it_is():
    agents.register("mine", First)
    agent = agents.make("mine", which=3)
    assert isinstance(agent, First)
    assert agents.make_from(agent) is agent
    assert agents.make_from("mine:which=1").which == 1
    assert agent.credits(make().view)[:, 3].tolist() == [1, 1]
    with pytest.raises(TypeError, match="which"):
        agents.make("mine", what=3)


def test_an_object_without_decide_is_refused():
    agents.register("nothing", object)
    with pytest.raises(TypeError, match=r"decide\(view\), credits\(view\) or aggregate\(view\)"):
        agents.make("nothing")
    with pytest.raises(TypeError, match="agent must be"):
        agents.make_from(3)


def test_names_of_byzgym_cannot_be_taken():
    for name, kind in (("krum", "is a built-in rule"), ("gaa", "is built in")):
        with pytest.raises(ValueError, match=kind):
            agents.register(name, First)
    assert "mine" not in agents.names()


@pytest.mark.parametrize("name", ["uniform", "mine"])
def test_an_agent_and_a_rule_of_one_name_are_refused(name):
    aggregation.register(name, lambda: lambda rows: rows.sum(-2))
    if name == "mine":
        agents.register("mine", First)
    with pytest.raises(ValueError, match=f"'{name}' is the name of an agent and of a rule"):
        agents.make(name)
    rows = torch.eye(3)
    assert torch.equal(aggregation.make(name)(rows), rows.sum(0))  # still the rule


def test_a_rule_of_ones_own_is_an_agent():
    aggregation.register("other", lambda: lambda rows: rows.sum(-2))
    assert not agents.make("other").linear


@pytest.mark.parametrize("value", ["maybe", 1, None])
def test_switches_take_true_and_false_only(value):
    found = []
    for name in agents.names():
        factory = (registry if name in registry.names() else rules).factory(name)
        for parameter in inspect.signature(factory).parameters.values():
            if isinstance(parameter.default, bool):
                found.append((name, parameter.name))
                with pytest.raises(ValueError, match=f"{parameter.name} must be True or False, got"):
                    agents.make(name, **{parameter.name: value})
    assert {("set", "pretrained"), ("median", "compiled")} <= set(found)


def test_mistakes_are_refused_at_once():
    for name, error, message in (
        ("krumm", ValueError, "did you mean 'krum'"),
        ("multi_krum:selected=2", TypeError, "num_selected"),
        ("krum:num_byzantine=-1", ValueError, "num_byzantine must be an integer of at least 0"),
        ("multi_krum:num_selected=0", ValueError, "num_selected must be an integer of at least 1"),
        ("fixed:credits=[0, 0]", ValueError, "positive sum"),
    ):
        with pytest.raises(error, match=message):
            agents.make_from(name)
    with pytest.raises(ValueError, match=r"needs n >= 2f \+ 3, got n=2"):
        agents.make("krum").credits(normal_view(num_workers=2))


def test_only_the_oracle_is_a_reference():
    assert [name for name in agents.names() if name != "model" and agents.make(name).reference] == ["oracle"]


def test_whoever_sees_the_simulation_is_a_reference():
    agents.register("curious", lambda simulation: First())
    with pytest.raises(ValueError, match=r"asks for the simulation.* set reference = True"):
        agents.build("curious", make())


def test_f_of_a_rule_is_checked_at_once():
    with pytest.raises(ValueError, match="num_byzantine must be an integer of at least 0, got 'abc'"):
        agents.make_from("krum:num_byzantine=abc")


@pytest.mark.parametrize("name", sorted({*agents.names()} - {"fixed", "model"}))
def test_every_agent_can_be_pickled(name):
    simulation = make()
    for agent in (agents.make(name), agents.build(name, simulation)):
        twin = pickle.loads(pickle.dumps(agent))
        twin._attach(simulation)
        agent._attach(simulation)
        assert torch.equal(twin.aggregate(simulation.view), agent.aggregate(simulation.view))
