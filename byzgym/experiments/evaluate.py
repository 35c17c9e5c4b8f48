"""Playing episodes of the Gymnasium environment with one policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import pandas as pd

import byzgym  # noqa: F401  registers the environment
from byzgym import agents, specs
from byzgym.envs import ENV_ID
from byzgym.experiments.policies import Told, install, told
from byzgym.validation import check_int

Predict = Callable[..., tuple[np.ndarray, Any]]


def make_environment(arguments: Mapping[str, Any], render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """The environment with these keyword arguments.

    Raises:
        ValueError: If a value is not allowed.
        TypeError: If a parameter does not exist.
    """
    return gymnasium.make(ENV_ID, render_mode=render_mode, disable_env_checker=True, **arguments)


def policy_by_name(policy: str, env: gymnasium.Env[Any, Any]) -> tuple[Predict, Told | None]:
    """The `predict` of an agent of byzgym, bound to the environment, and the f that a rule is told.

    A rule is told the environment's f, or the largest that it accepts, unless ``policy`` gives one.

    Raises:
        ValueError: If the name is unknown, or a rule does not accept the f given for it.
        TypeError: If a parameter does not exist.
    """
    name = specs.parse(policy)["name"]
    if name not in agents.names():  # which the rules alone, asked below, would not list
        raise ValueError(f"unknown name {name!r} in policy; known: {', '.join(agents.names())}")
    simulation: Any = env.unwrapped.simulation  # type: ignore[attr-defined]
    f = simulation.most_byzantine
    return install(policy, simulation, f).bind(env).predict, told(policy, simulation.num_rows, f)


def evaluate(
    env: gymnasium.Env[Any, Any],
    predict: Predict,
    episodes: int,
    seed: int,
    on_frame: Callable[[Any], None] | None = None,
    frames: int = 10,
) -> pd.DataFrame:
    """Play episodes, episode i from ``env.reset(seed=seed + i)``.

    Args:
        env: A `ByzantineAggregation-v0`.
        predict: As of an agent or a stable-baselines3 model.
        episodes: At least 1.
        seed: Of the first episode, at least 0.
        on_frame: Receives what ``env.render()`` returns, ``frames`` times an episode.
        frames: At least 1.

    Returns:
        One row an episode: seed, attack, return, accuracy, rounds, diverged.

    Raises:
        ValueError: If a number is not allowed.
    """
    check_int("episodes", episodes, low=1)
    check_int("frames", frames, low=1)
    check_int("seed", seed, low=0)
    rows = [_episode(env, predict, seed + number, on_frame, frames) for number in range(episodes)]
    return pd.DataFrame(rows)


def _episode(
    env: gymnasium.Env[Any, Any],
    predict: Predict,
    seed: int,
    on_frame: Callable[[Any], None] | None,
    frames: int,
) -> dict[str, Any]:
    simulation: Any = env.unwrapped.simulation  # type: ignore[attr-defined]
    every = max(1, simulation.setup.rounds // frames)
    observation, info = env.reset(seed=seed)
    state, start, total, rounds, done = None, np.array([True]), 0.0, 0, False
    while not done:
        action, state = predict(observation, state=state, episode_start=start, deterministic=True)
        observation, reward, terminated, truncated, info = env.step(action)
        total, rounds, start = total + float(reward), rounds + 1, np.array([False])
        done = terminated or truncated
        if on_frame is not None and (done or rounds % every == 0):
            on_frame(env.render())
    return {
        "seed": seed,
        "attack": simulation.attack_names[0],
        "return": total,
        "accuracy": float(info["accuracy"]),
        "rounds": rounds,
        "diverged": bool(info["diverged"]),
    }
