"""The agents by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from byzgym import aggregation
from byzgym.agents.base import Agent, ForeignAgent
from byzgym.agents.rules import RuleAgent
from byzgym.aggregation.registry import registry as rules
from byzgym.registry import Registry

registry: Registry[Any] = Registry("agent")


def names() -> list[str]:
    """The known agents: those registered here, and every rule."""
    return sorted({*registry.names(), *aggregation.names()})


def register(name: str, factory: Callable[..., Any]) -> None:
    """Make ``factory(**parameters)`` known as an agent.

    It returns an object with ``reset()`` and ``credits(view)`` or ``aggregate(view)``. An agent goes before a
    rule of yours with the same name.

    Raises:
        ValueError: If the name is not a non-empty string, or is that of a built-in agent or rule.
        TypeError: If the factory cannot be called.
    """
    if rules.is_built_in(name):
        raise ValueError(
            f"agent {name!r} is the rule of that name and cannot be replaced; choose another name"
        )
    registry.register(name, factory)


def make(name: str, **parameters: Any) -> Agent:
    """Build an agent; the name of a rule gives that rule as an agent.

    Raises:
        ValueError: If the name is unknown; the message lists the known ones.
        TypeError: If it has no such parameter.
    """
    if name in aggregation.names() and name not in registry.names():
        return RuleAgent(name, **parameters)
    if name not in registry.names():
        raise ValueError(f"unknown agent {name!r}; known: {', '.join(names())}")
    agent = registry.make(name, **parameters)
    return agent if isinstance(agent, Agent) else ForeignAgent(agent)
