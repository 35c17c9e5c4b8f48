"""A Gymnasium environment for agents that aggregate gradients when some workers are Byzantine.

Importing this package registers ``ByzantineAggregation-v0`` with Gymnasium.
"""

from byzgym import adaptive, agents, aggregation, attacks, integrations, tasks
from byzgym.envs import register_envs

__version__ = "0.1.0"

__all__ = ["__version__", "adaptive", "agents", "aggregation", "attacks", "integrations", "tasks"]

register_envs()
