"""Everything that decides in a round: GAA, the rules as agents, and controls.

A new agent is one small file: subclass `Agent`, decorate it with ``@registry.built_in("name")`` and import it
here. From outside the package call `register`, which takes a factory of any object with ``reset()`` and
``credits(view)`` or ``aggregate(view)``.
"""

from byzgym.agents.base import Agent
from byzgym.agents.controls import BenignOnlyOracle, Fixed, Random, Uniform
from byzgym.agents.gaa import GAA
from byzgym.agents.registry import make, names, register
from byzgym.agents.rules import RuleAgent

__all__ = [
    "GAA",
    "Agent",
    "BenignOnlyOracle",
    "Fixed",
    "Random",
    "RuleAgent",
    "Uniform",
    "make",
    "names",
    "register",
]
