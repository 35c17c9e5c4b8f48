"""The arguments of the environments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from byzgym.simulation.config import SimulationConfig, Spec

AGENT_ARGUMENTS = frozenset({"observation", "pool_size", "pooling", "action", "rules"})
"""Arguments that say what an agent observes and what its actions mean."""


@dataclass(frozen=True, kw_only=True)
class EnvConfig(SimulationConfig):
    """A simulation, and what an agent sees of it and does in it."""

    observation: str | Sequence[str] = "pooled"
    """A part of the observation, a list of parts, or all."""
    pool_size: int | None = None
    """Numbers in a row of the pooled observation; None is 128, or d where that is less."""
    pooling: str = "sketch"
    """How rows are pooled: sketch (signed sums, which keep inner products) or blocks (means)."""
    reward_form: str = "relative"
    """The reward: relative (drop of the loss, divided by it) or log (drop of its logarithm)."""
    action: str = "credits"
    """What an action is: credits, null_slot, rule or update."""
    rules: Sequence[Spec] | None = None
    """With action="rule" the rules to choose from, such as median and krum."""
    evaluate_every: int | None = None
    """Rounds between evaluations on test data; None is only at the end of an episode."""
