"""A floor for rewards, with which policies learn better than with the environment's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from byzgym.validation import check_real


class CutAtFloor(VecEnvWrapper):
    """Raises rewards to a floor, and ends an episode for the learner when a reward is below the floor.

    One round in which the loss explodes would otherwise outweigh the small gains that tell workers apart. The
    loss falls again afterwards, and that fall would be rewarded; so the episode ends for the learner. The
    environment itself goes on. Put wrappers that stack frames or count episodes inside this one.

    >>> from byzgym.integrations.sb3 import make_vec_env
    >>> venv = CutAtFloor(make_vec_env(2, task="synthetic", attack="gaussian"), floor=-0.2)
    >>> _ = venv.reset()
    >>> bool(venv.step(np.full((2, 10), 0.1))[1].min() >= np.float32(-0.2))
    True

    Use it for training only. If an `EvalCallback` asks for the same wrappers, give it the floor -10, which
    changes nothing.

    Args:
        venv: An environment of stable-baselines3.
        floor: The smallest reward, at most 0. The environment's own rewards are at least -10.

    Raises:
        ValueError: If the floor is not a finite number of at most 0.
    """

    def __init__(self, venv: VecEnv, floor: float = -0.2) -> None:
        self.floor = check_real("floor", floor, high=0)
        super().__init__(venv)

    def reset(self) -> VecEnvObs:
        """Reset the environments."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Play one round; dones [E] are also True where the reward was below the floor."""
        observations, rewards, dones, infos = self.venv.step_wait()
        low = rewards < self.floor
        for env in np.flatnonzero(low).tolist():
            infos[env]["TimeLimit.truncated"] = False  # so that the learner adds no value
            if not dones[env]:
                last: Any = observations  # of the learner's episode
                parts = isinstance(last, dict)
                seen = {name: values[env] for name, values in last.items()} if parts else last[env]
                infos[env]["terminal_observation"] = seen
        return observations, np.maximum(rewards, self.floor), dones | low, infos
