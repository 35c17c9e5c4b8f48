"""Bridges to other libraries, and the agents that come from there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from byzgym.agents.base import Agent
from byzgym.agents.registry import registry


@registry.built_in("model")
def model(
    path: str,
    algorithm: str | None = None,
    softmax_beta: float | None = None,
    environment: Mapping[str, Any] | None = None,
) -> Agent:
    """A model that stable-baselines3 or sb3-contrib has saved, such as model:runs/ppo/model.zip.

    What it observes and what its actions mean is read from the training.json of `byzgym train` beside it. The
    other arguments are for models without one. See `byzgym.integrations.sb3.ModelPolicy`.
    """
    from byzgym.integrations.sb3.model import ModelPolicy  # what it needs takes seconds to import

    return ModelPolicy(path, algorithm, softmax_beta, environment)
