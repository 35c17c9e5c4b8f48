"""A policy by name, put in charge of a simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from byzgym import agents, aggregation, specs
from byzgym.agents import Agent, BenignOnlyOracle, RuleAgent
from byzgym.agents.base import credits_if_any
from byzgym.agents.registry import registry
from byzgym.aggregation import (
    Rule,
    accepted,
    checked_update,
    combine,
)
from byzgym.simulation import Simulation


@dataclass(frozen=True)
class Told:
    """The f a rule was told where that is less than the true one.

    Attributes:
        policy: As the tables list it.
        num_byzantine: The true f.
        told: The largest f that the rule accepts.
        condition: What the rule demands, such as "n >= 2f + 3".
    """

    policy: str
    num_byzantine: int
    told: int
    condition: str

    def __str__(self) -> str:
        """Say what the rule was told and why."""
        condition = f" (needs {self.condition})" if self.condition else ""
        return f"told f = {self.told}, the largest it accepts{condition}"


def is_reference(policy: str) -> bool:
    """Whether the policy sees more than a server would."""
    name = specs.parse(policy)["name"]
    if name not in registry.names():
        return False  # a rule
    return bool(getattr(registry.factory(name), "reference", False))


def install(policy: str, simulation: Simulation, num_byzantine: int) -> Agent:
    """Build a policy for a simulation that is then reset. A rule is told f, or the largest that it accepts.

    Raises:
        ValueError: If the name is unknown, or a rule accepts no f for so few workers.
        TypeError: If a parameter does not exist.
    """
    spec = specs.parse(policy)
    name = spec["name"]
    parameters: dict[str, Any] = {key: value for key, value in spec.items() if key != "name"}
    if name in registry.names():
        factory = registry.factory(name)
        if isinstance(factory, type) and issubclass(factory, BenignOnlyOracle):
            if parameters:
                raise TypeError(f"{name} takes no parameters, got {specs.label(spec)!r}")
            return agents.make(name, simulation=simulation)
        return agents.make(name, **parameters)
    rule = aggregation.make_within(spec, simulation.num_rows, num_byzantine)
    if isinstance(rule, Rule):
        rule.check(torch.zeros(simulation.num_rows, 1))
    simulation.rule = rule  # for attacks that declare this knowledge
    return RuleAgent(rule)


def told(policy: str, num_workers: int, num_byzantine: int) -> Told | None:
    """What a rule is told where its condition does not admit the true f; None elsewhere."""
    spec = specs.parse(policy)
    if spec["name"] in registry.names() or "num_byzantine" in spec:
        return None
    rule = aggregation.make_within(spec, num_workers, num_byzantine)
    largest = aggregation.largest_byzantine(rule, num_workers, num_byzantine)
    if largest == num_byzantine or getattr(rule, "num_byzantine", None) != largest:
        return None
    return Told(policy, num_byzantine, largest, str(getattr(rule, "condition", "")))


def decide(agent: Agent, simulation: Simulation) -> tuple[Tensor, Tensor | None]:
    """The update [E, d] of this round, and the credits [E, n] that made it, None where none express it.

    The agent is given the `ServerView` and nothing else; rejected submissions get no credit.

    Raises:
        TypeError, ValueError: If what the agent gives are no credits and no aggregate.
    """
    view = simulation.view
    credits = credits_if_any(agent, view)
    if credits is not None:
        credits = accepted(credits, view.rejected)
        return combine(credits, view.gradients), credits
    return checked_update(agent, agent.aggregate(view), view), None
