"""Evaluations during a training: the model and its controls on the same episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from byzgym import agents
from byzgym.agents.base import action_of
from byzgym.integrations.sb3.adapter import make_vec_env

FIRST_SEED = 100_000
"""Episode i has the seed FIRST_SEED + i. Those of trainings begin at `learners.FIRST_SEED`."""
CONTROLS = ("uniform", "trust", "gaa", "oracle")
"""The policies beside which a model is shown, as far as they are registered."""
Predict = Callable[..., tuple[np.ndarray, Any]]


def controls() -> list[str]:
    """Those of the controls that there are."""
    return [name for name in CONTROLS if name in agents.names()]


def environments(episodes: int, softmax_beta: float | None, arguments: Mapping[str, Any]) -> VecEnv:
    """An environment for each episode of an evaluation."""
    return make_vec_env(episodes, softmax_beta=softmax_beta, **arguments)


def play_control(
    name: str, episodes: int, arguments: Mapping[str, Any], each_round: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Evaluate a policy of byzgym; see `play`. What an action is in the training does not matter to it."""
    return play(*control(name, episodes, arguments), each_round)


def control(name: str, episodes: int, arguments: Mapping[str, Any]) -> tuple[VecEnv, Predict]:
    """Environments for a policy of byzgym, and how it acts in them."""
    agent = agents.make_from(name)
    env = environments(episodes, None, {**arguments, "action": action_of(agent, arguments), "rules": None})
    return env, agent.bind(env).predict


def play(env: VecEnv, predict: Predict, each_round: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Play the first episode of every environment, from the evaluation's seeds.

    Args:
        env: Environments that begin anew by themselves.
        predict: As of an agent or a stable-baselines3 model.
        each_round: Called before each round.

    Returns:
        Means and standard deviations over the episodes: "return", "return_std", "accuracy", "accuracy_std";
        and "diverged", the share of those that did.
    """
    env.seed(FIRST_SEED)
    observations: Any = env.reset()
    count = env.num_envs
    totals, accuracy, diverged = np.zeros((3, count))
    going, starts, state = np.ones(count, dtype=bool), np.ones(count, dtype=bool), None
    while going.any():
        each_round()
        actions, state = predict(observations, state, starts, deterministic=True)
        observations, rewards, starts, infos = env.step(actions)
        totals += np.where(going, rewards, 0)
        for i in np.flatnonzero(going & starts).tolist():
            accuracy[i], diverged[i] = infos[i]["accuracy"], infos[i]["diverged"]
        going &= ~starts
    return {
        "return": float(totals.mean()),
        "return_std": float(totals.std(ddof=min(1, count - 1))),
        "accuracy": float(accuracy.mean()),
        "accuracy_std": float(accuracy.std(ddof=min(1, count - 1))),
        "diverged": float(diverged.mean()),
    }
