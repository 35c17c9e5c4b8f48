"""The agents by name: those registered here, and every rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from byzgym import aggregation, specs
from byzgym.agents.adapter import PolicyAgent
from byzgym.agents.base import Agent
from byzgym.aggregation.registry import registry as rules
from byzgym.registry import Registry, suggestion
from byzgym.simulation import Simulation

INJECTED = ("num_byzantine", "simulation")
"""Parameters of factories that whoever builds an agent fills in."""

PROBED = 1000
"""Workers for which every rule accepts some f."""

registry: Registry[Any] = Registry("agent", accepts=lambda spec: _decides(spec))


def names() -> list[str]:
    """The known agents: those registered here, and every rule."""
    return sorted({*registry.names(), *aggregation.names()})


def register(name: str, factory: Callable[..., Any]) -> None:
    """Make ``factory(**parameters)`` known as an agent.

    It returns an object with ``decide(view)``, ``credits(view)`` or ``aggregate(view)``, and perhaps ``reset``.
    Parameters named ``num_byzantine`` and ``simulation`` are filled in by whoever builds it (`build`, `Agent.bind`). An
    agent goes before a rule of yours with the same name.

    Raises:
        ValueError: If the name is not allowed, or is that of a built-in agent or rule.
        TypeError: If the factory cannot be called.
    """
    if rules.is_built_in(name):
        raise ValueError(f"agent {name!r} is the rule of that name and cannot be replaced; choose another name")
    registry.register(name, factory)


def make(name: str, /, **parameters: Any) -> Agent:
    """Build an agent; the name of a rule gives that rule as an agent.

    What the agent wants to know of its environment (``num_byzantine``, ``simulation``) and is not given here, `bind`
    tells it.

    Raises:
        ValueError: If the name is unknown; the message lists the known ones.
        TypeError: If it has no such parameter.

    Example:
        >>> make("multi_krum", num_byzantine=2).decide
        <bound method PolicyAgent.decide of MultiKrum(num_byzantine=2)>
    """
    return make_from({"name": name, **parameters})


def make_from(spec: Any) -> Agent:
    """`make` from a name, "name:key=value", a mapping with a "name", or an object that decides."""
    if isinstance(spec, str):
        spec = specs.parse(spec)
    if not isinstance(spec, Mapping):
        made = registry.make_from(spec)
        return made if isinstance(made, Agent) else PolicyAgent.of(made, registry.describe(spec))
    name = spec.get("name")
    if name not in names():
        raise ValueError(f"unknown agent {name!r}; {suggestion(str(name), names())}")
    source: Registry[Any] = registry if name in registry.names() else rules
    label = specs.label(spec)
    wanted = [key for key in INJECTED if key not in spec and source.takes(name, key)]
    if not wanted:
        made = registry.make_from(spec) if source is registry else aggregation.make_from(spec)
        return made if isinstance(made, Agent) else PolicyAgent.of(made, label)

    def build(num_workers: int, num_byzantine: int | None, simulation: Simulation | None) -> Any:
        if source is rules:
            return aggregation.make_for(spec, num_workers, num_workers if num_byzantine is None else num_byzantine)
        known = {"num_byzantine": num_byzantine, "simulation": simulation}
        for key in wanted:
            if known[key] is None:
                raise ValueError(f"agent {label!r} needs {key}: give it, or attach the agent with bind(env)")
        return registry.make_from(spec, {key: known[key] for key in wanted})

    factory = source.factory(name)
    if "simulation" not in wanted:
        factory = build(PROBED, 0, None)  # parameters that are not allowed fail now, not in the first round
    return PolicyAgent(label, build, getattr(factory, "linear", True), getattr(factory, "reference", False))


def build(spec: Any, simulation: Simulation) -> Agent:
    """`make_from`, with what the agent wants to know of a simulation filled in.

    ``num_byzantine`` is the (upper) f, or the largest that a rule accepts; ``simulation`` is for references such as the
    oracle. Attacks that know the server's rule are shown the agent's, if it is a rule.

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


def _decides(spec: Any) -> bool:
    return any(callable(getattr(spec, method, None)) for method in ("decide", "credits", "aggregate"))
