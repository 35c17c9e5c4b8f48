"""Gymnasium shells around the simulation, and their registration."""

from __future__ import annotations

import gymnasium

from byzgym.envs.single import ByzantineAggregationEnv
from byzgym.envs.vector import ByzantineAggregationVectorEnv

ENV_ID = "ByzantineAggregation-v0"

__all__ = ["ENV_ID", "ByzantineAggregationEnv", "ByzantineAggregationVectorEnv", "register_envs"]


def register_envs() -> None:
    """Make the environment ids known to Gymnasium; `import byzgym` does it."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(
            id=ENV_ID,
            entry_point="byzgym.envs:ByzantineAggregationEnv",
            vector_entry_point="byzgym.envs:ByzantineAggregationVectorEnv",
        )
