"""The agents by name: those registered here, and every rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from byzgym import aggregation, specs
from byzgym.agents.adapter import PolicyAgent
from byzgym.agents.base import Agent
from byzgym.aggregation.pre.registry import registry as pre_aggregators
from byzgym.aggregation.registry import check_behind, label, normalised
from byzgym.aggregation.registry import registry as rules
from byzgym.registry import Registry, describe
from byzgym.simulation import Simulation
from byzgym.validation import check_int, shown, unknown, within

INJECTED = ("num_byzantine", "simulation")  # parameters of factories that whoever builds an agent fills in
PROBED = 1000  # workers for which every rule accepts some f


def decides(spec: Any) -> bool:
    """Whether an object can decide."""
    methods = ("decide", "credits", "aggregate")
    return not isinstance(spec, type) and any(callable(getattr(spec, method, None)) for method in methods)


registry: Registry[Any] = Registry(
    "agent", decides, "an object with decide(view), credits(view) or aggregate(view)"
)
registry.keep_apart(pre_aggregators)


def names() -> list[str]:
    """The known agents: those registered here, and every rule."""
    return sorted({*registry.names(), *aggregation.names()})


def register(name: str, factory: Callable[..., Any]) -> None:
    """Make ``factory(**parameters)`` known as an agent.

    It returns an object with ``decide(view)``, ``credits(view)`` or ``aggregate(view)``, and perhaps
    ``reset``. Parameters named ``num_byzantine`` and ``simulation`` are filled in by whoever builds it
    (`build`, `Agent.bind`). Whoever asks for the simulation sees who is Byzantine: it must have
    ``reference = True``.

    Raises:
        ValueError: If the name is not allowed, or is that of a built-in agent or rule, or of a
            pre-aggregator.
        TypeError: If the factory cannot be called.
    """
    if rules.is_built_in(name):
        raise ValueError(f"agent {name!r} is a built-in rule and cannot be replaced; choose another name")
    registry.register(name, factory)


def make(name: str, /, **parameters: Any) -> Agent:
    """Build an agent; the name of a rule gives that rule as an agent.

    What the agent wants to know of its environment (``num_byzantine``, ``simulation``) and is not given here,
    `bind` tells it. A rule is told f, or the largest that it accepts for the number of submissions.

    Raises:
        ValueError: If the name is unknown; the message lists the known ones.
        TypeError: If it has no such parameter.

    Example:
        >>> make("multi_krum", num_selected=3), make("gaa")
        (multi_krum:num_selected=3, GAA)
    """
    return make_from({"name": name, **parameters})


def make_from(spec: Any) -> Agent:
    """`make` from a name, "name:key=value", a mapping with a "name", or an object that decides.

    Pre-aggregators may stand in front of a rule: "nnm+krum", or {"name": "krum", "pre": ["nnm"]}.
    """
    spec = normalised(spec)
    if not isinstance(spec, Mapping):
        return _as_agent(registry.make_from(spec), describe(spec))
    if "name" not in spec:
        raise ValueError(f"agent: a mapping needs the key 'name', got {shown(spec)}")
    if spec["name"] not in names():
        check_behind(spec["name"])
        raise unknown("agent", spec["name"], names())
    if spec["name"] not in registry.names():
        return _rule_from(spec)
    if "pre" in spec:
        raise ValueError(f"pre-aggregators stand in front of rules, and {spec['name']!r} is an agent")
    if spec["name"] in aggregation.names():
        raise ValueError(f"{spec['name']!r} is the name of an agent and of a rule; choose another for yours")
    return _agent_from(spec)


def _as_agent(policy: Any, name: str) -> Agent:
    return policy if isinstance(policy, Agent) else PolicyAgent.of(policy, name)


def _rule_from(spec: Mapping[str, Any]) -> Agent:
    """A rule as an agent; it is built when the number of submissions is known."""
    if "num_byzantine" in spec:
        check_int("num_byzantine", spec["num_byzantine"], low=0)
    probe = _build_rule(spec, PROBED, 0)  # parameters that are not allowed fail now, not in the first round
    return PolicyAgent(label(spec), partial(_build_rule, spec), probe.linear)


def _build_rule(spec: Mapping[str, Any], num_workers: int, num_byzantine: int | None, *_: Any) -> Any:
    given = dict(spec)
    f = given.pop("num_byzantine", num_workers if num_byzantine is None else num_byzantine)
    return aggregation.make_for(given, num_workers, f)


def _agent_from(spec: Mapping[str, Any]) -> Agent:
    """A registered agent; it is built at once unless it wants to know its environment."""
    label, name = specs.label(spec), spec["name"]
    wanted = [key for key in INJECTED if key not in spec and registry.takes(name, key)]
    if not wanted:
        return _as_agent(registry.make_from(spec), label)
    factory, build = registry.factory(name), partial(_build_agent, spec, wanted)
    return PolicyAgent(label, build, getattr(factory, "linear", True), getattr(factory, "reference", False))


def _build_agent(
    spec: Mapping[str, Any],
    wanted: Sequence[str],
    num_workers: int,
    num_byzantine: int | None,
    simulation: Simulation | None,
) -> Any:
    known = {"num_byzantine": num_byzantine, "simulation": simulation}
    made = registry.make_from(spec, {key: known[key] for key in wanted if known[key] is not None})
    if "simulation" in wanted and not getattr(made, "reference", False):
        raise ValueError(
            f"agent {spec['name']!r} asks for the simulation, which shows who is Byzantine: set "
            "reference = True"
        )
    return made


def build(spec: Any, simulation: Simulation) -> Agent:
    """`make_from`, with what the agent wants to know of a simulation filled in.

    ``num_byzantine`` is the (upper) f, or the largest that a rule accepts; ``simulation`` is for references
    such as the oracle. Attacks that know the server's rule are shown the agent's, if it is a rule.

    Args:
        spec: As for `make_from`.
        simulation: Where the agent will decide.

    Raises:
        ValueError: If the name is unknown, or a rule accepts no f for so few workers.
        TypeError: If a parameter does not exist.
    """
    agent = make_from(spec)
    agent._attach(simulation)
    return agent


def make_inner(argument: str, spec: Any) -> Agent:
    """`make_from` for an agent inside another one.

    Args:
        argument: Where the other one takes it, such as "start" or "members[1]"; errors begin with this.
        spec: As for `make_from`.

    Raises:
        ValueError: If it is a reference: what it decides would show the other one who is Byzantine.
    """
    with within(argument):
        agent = make_from(spec)
    return _without_reference(argument, agent)


def attach_inner(argument: str, agent: Agent, simulation: Simulation) -> None:
    """Tell an agent inside another one what it may know of a simulation; see `make_inner`."""
    with within(argument):
        agent._attach(simulation)
    _without_reference(argument, agent)


def _without_reference(argument: str, agent: Agent) -> Agent:
    if agent.reference:
        raise ValueError(f"{argument} must not be a reference, which sees more than a server, got {agent!r}")
    return agent
