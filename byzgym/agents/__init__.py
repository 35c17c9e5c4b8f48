"""Agents: policies that can act in an environment. They learn (GAA) or are controls; every rule is one, too.

A new agent subclasses `Agent` and defines `decide`, and is decorated with ``@registry.built_in("name")`` and
imported here. From outside the package call `register` with a factory of any object with ``decide(view)``,
``credits(view)`` or ``aggregate(view)``.
"""

from byzgym.agents.adapter import PolicyAgent
from byzgym.agents.base import Agent
from byzgym.agents.controls import BenignOnlyOracle, Fixed, Random, Uniform
from byzgym.agents.ensemble import Ensemble
from byzgym.agents.gaa import GAA
from byzgym.agents.registry import build, make, make_from, names, register
from byzgym.agents.set.agent import SetAggregator

__all__ = [
    "GAA",
    "Agent",
    "BenignOnlyOracle",
    "Ensemble",
    "Fixed",
    "PolicyAgent",
    "Random",
    "SetAggregator",
    "Uniform",
    "build",
    "make",
    "make_from",
    "names",
    "register",
]
