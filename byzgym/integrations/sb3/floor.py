"""Rewards from which policies learn better than from the environment's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from byzgym.validation import check_real


class CutAtFloor(VecEnvWrapper):
    """Rewards not below a floor, and an episode that falls below it is over as far as learning is concerned.

    A round that blows the loss up would otherwise drown the small gains that tell workers apart. The fall of
    the loss after such a round earns rewards too, which must not make up for its own once that is floored.
    The environments themselves go on, so wrappers that stack frames or count episodes belong inside this
    one. For training only: evaluate without it, or, where an `EvalCallback` wants both wrapped alike, with
    the floor -10, which cuts nothing.

    Args:
        venv: An environment of stable-baselines3.
        floor: The least reward, at most 0; the environment's own go down to -10.

    Raises:
        ValueError: If the floor is not a finite number of at most 0.
    """

    def __init__(self, venv: VecEnv, floor: float = -0.2) -> None:
        self.floor = check_real("floor", floor, high=0)
        super().__init__(venv)

    def reset(self) -> VecEnvObs:
        """Pass on."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Play one round; rewards [E] of at least the floor, and dones [E] also where they were below it."""
        observations, rewards, dones, infos = self.venv.step_wait()
        low = rewards < self.floor
        for env in np.flatnonzero(low).tolist():
            infos[env]["TimeLimit.truncated"] = False  # nothing follows that would count
            if not dones[env]:
                infos[env]["terminal_observation"] = _of(observations, env)
        return observations, np.maximum(rewards, self.floor), dones | low, infos


def _of(observations: VecEnvObs, env: int) -> Any:
    """The observation of one environment."""
    if isinstance(observations, dict):
        return {name: values[env] for name, values in observations.items()}
    if isinstance(observations, tuple):
        return tuple(values[env] for values in observations)
    return observations[env]
