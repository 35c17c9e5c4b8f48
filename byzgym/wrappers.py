"""Wrappers that change what an action is: logits instead of credits."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorActionWrapper, VectorEnv
from gymnasium.vector.utils import batch_space

from byzgym.validation import check_real


def softmax_credits(logits: np.ndarray, beta: float) -> np.ndarray:
    """softmax(beta * logits) over the last axis of logits [..., n], float32."""
    try:
        scaled = beta * np.asarray(logits).astype(np.float64, casting="same_kind")
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"action must be an array of numbers, got {logits!r}") from None
    if not scaled.size or not np.isfinite(scaled).all():
        raise ValueError(f"action must be logits, finite numbers, got {logits!r}")
    weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


class SoftmaxCredits(gym.ActionWrapper[Any, np.ndarray, np.ndarray], RecordConstructorArgs):
    """Logits in [-1, 1] as actions; the credits are softmax(beta * logits).

    Suits policies with Gaussian actions, which do not stay on the simplex. ``beta`` bounds how little credit
    a worker can get: f of n workers have together at least f / (f + (n - f) exp(2 beta)), which for n=20 and
    f=8 is 8.3 % at beta 1 and 3e-5 at beta 5. What `gymnasium.make_vec` returns is wrapped in
    `VectorSoftmaxCredits` (its argument ``wrappers`` is for environments without a vector form).

    Args:
        env: An environment whose actions are credits, with or without a null slot (then the last logit is the
            slot's).
        beta: Inverse temperature, greater than 0.

    Raises:
        ValueError: If ``beta`` is not a finite number greater than 0, or actions are not credits.
    """

    def __init__(self, env: gym.Env[Any, np.ndarray], beta: float = 5.0) -> None:
        self.beta = check_real("beta", beta, above=0)
        RecordConstructorArgs.__init__(self, beta=self.beta)
        gym.ActionWrapper.__init__(self, env)
        self.action_space = _logit_space(env.action_space)

    def action(self, action: np.ndarray) -> np.ndarray:
        """Credits [n] on the simplex for logits [n]."""
        return softmax_credits(action, self.beta)


class VectorSoftmaxCredits(VectorActionWrapper):
    """`SoftmaxCredits` for the native vector environment, with the same arguments and errors."""

    def __init__(self, env: VectorEnv[Any, Any, Any], beta: float = 5.0) -> None:
        super().__init__(env)
        self.beta = check_real("beta", beta, above=0)
        self.single_action_space = _logit_space(env.single_action_space)
        self.action_space = batch_space(self.single_action_space, env.num_envs)

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """Credits [E, n] on the simplex for logits [E, n]."""
        return softmax_credits(actions, self.beta)


def _logit_space(space: spaces.Space[Any]) -> spaces.Box:
    if not isinstance(space, spaces.Box) or len(space.shape) != 1 or space.low.min() < 0:
        raise ValueError(f"the environment's actions must be credits, Box(0, 1, (n,)), got {space}")
    return spaces.Box(-1.0, 1.0, space.shape, np.float32)
