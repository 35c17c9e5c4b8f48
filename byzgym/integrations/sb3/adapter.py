"""The native vector environment as a `VecEnv` of stable-baselines3."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from byzgym.envs import ENV_ID
from byzgym.simulation.config import DEFAULT_ATTACKS
from byzgym.validation import check_bool, check_int
from byzgym.wrappers import VectorSoftmaxCredits


class VecEnvAdapter(VecEnv):
    """Adapts a Gymnasium vector environment with same-step autoreset; `make_vec_env` makes one.

    The environments are one object, so they share all attributes and methods. `get_attr` returns the same
    value for each index, and `env_method` calls the method once and returns its result for each environment.
    `set_attr` and `env_method` raise a ValueError unless ``indices`` are None or all environments.
    `set_options` has no effect.

    Args:
        venv: The vector environment, wrapped or not.

    Raises:
        ValueError: If its autoreset mode is not "SameStep".
    """

    def __init__(self, venv: VectorEnv[Any, Any, Any]) -> None:
        mode = venv.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(f"venv must have autoreset_mode='SameStep', as make_vec_env does, got {mode}")
        self.venv = venv
        super().__init__(venv.num_envs, venv.single_observation_space, venv.single_action_space)

    def reset(self) -> VecEnvObs:
        """Begin new episodes, with the seeds given to `seed` since the last reset; returns observations."""
        seeds: Any = None if self._seeds[0] is None else self._seeds  # VectorEnv declares int only
        observation, infos = self.venv.reset(seed=seeds)
        self.reset_infos = _per_environment(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions [E, n] for `step_wait`."""
        self._actions: np.ndarray = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Play one round.

        Returns:
            Observations, rewards [E] float32, dones [E] and one info per environment. At the end of an
            episode it is the info of the last round, with ``terminal_observation`` and the test metrics.
            ``reset_infos`` then has the info of the new episode.
        """
        observation, rewards, terminated, truncated, infos = self.venv.step(self._actions)
        dones = terminated | truncated
        listed = _per_environment(infos, self.num_envs)
        if dones.any():
            last = _per_environment(infos["final_info"], self.num_envs)
            for env in np.flatnonzero(dones).tolist():
                # Wrappers add what they know of the last round, such as "episode", to the new info.
                names = listed[env].keys() - last[env].keys() - self.reset_infos[env].keys()
                added = {name: listed[env].pop(name) for name in names}
                self.reset_infos[env], listed[env] = listed[env], {**last[env], **added}
                listed[env]["terminal_observation"] = infos["final_obs"][env]
        for info, out_of_time in zip(listed, (truncated & ~terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = out_of_time
        return observation, rewards.astype(np.float32), dones, listed

    def close(self) -> None:
        """Close the vector environment."""
        self.venv.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """A frame for each environment."""
        frames: Any = self.venv.render()
        return frames

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute of the outermost layer of the vector environment that has it, for each index."""
        layer = next((layer for layer in self._layers() if hasattr(layer, attr_name)), self.venv)
        return [getattr(layer, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the unwrapped vector environment."""
        self._check_all(indices)
        setattr(self.venv.unwrapped, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the vector environment once; returns its result for each environment."""
        self._check_all(indices)
        return [self.get_attr(method_name)[0](*method_args, **method_kwargs)] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether the vector environment has a wrapper of this class, for each index."""
        wrapped = any(isinstance(layer, wrapper_class) for layer in self._layers())
        return [wrapped] * len(list(self._get_indices(indices)))

    def _layers(self) -> list[VectorEnv[Any, Any, Any]]:
        """The vector environment with its wrappers, outermost first."""
        layers = [self.venv]
        while isinstance(layers[-1], VectorWrapper):
            layers.append(layers[-1].env)
        return layers

    def _check_all(self, indices: VecEnvIndices) -> None:
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise ValueError(f"indices must be None or all {self.num_envs} environments, got {indices!r}")


def make_vec_env(
    num_envs: int,
    seed: int | None = None,
    softmax_beta: float | None = None,
    one_attack_each: bool = False,
    **env_kwargs: Any,
) -> VecEnvAdapter:
    """Make the native vector environment for stable-baselines3.

    >>> venv = make_vec_env(2, seed=0, task="synthetic", num_workers=4, num_byzantine=1)
    >>> venv.reset().shape
    (2, 5, 128)
    >>> observations, rewards, dones, infos = venv.step(np.full((2, 4), 0.25))
    >>> infos[0]["credits"]
    array([0.25, 0.25, 0.25, 0.25], dtype=float32)

    Args:
        num_envs: E.
        seed: Environment i is seeded with ``seed + i`` at the first reset.
        softmax_beta: If given, actions are logits in [-1, 1] (see `byzgym.wrappers.SoftmaxCredits`).
        one_attack_each: Whether each environment has one of the attacks for good, taken from the list in
            turn, instead of one drawn at each reset. Episodes that an attack ends in their first rounds are
            otherwise a small part of all rounds, and a learner may not learn from them.
        env_kwargs: Keyword arguments of the environment.

    Raises:
        ValueError: If a value is not allowed.
        TypeError: If an argument does not exist.
    """
    if check_bool("one_attack_each", one_attack_each):
        attacks = attacks_of(env_kwargs)
        if len(attacks) > num_envs or "per_environment" in env_kwargs:
            raise ValueError(
                f"one_attack_each needs at least as many environments as attacks ({len(attacks)}) and no "
                f"per_environment, got num_envs={num_envs}"
            )
        env_kwargs["per_environment"] = [{"attack": attacks[i % len(attacks)]} for i in range(num_envs)]
    venv: VectorEnv[Any, Any, Any] = gym.make_vec(ENV_ID, num_envs, autoreset_mode="SameStep", **env_kwargs)
    adapter = VecEnvAdapter(venv if softmax_beta is None else VectorSoftmaxCredits(venv, softmax_beta))
    if seed is not None:
        adapter.seed(check_int("seed (unless None)", seed, low=0))
    return adapter


def attacks_of(env_kwargs: Mapping[str, Any]) -> list[Any]:
    """The attacks among which an environment with these arguments draws."""
    attack = env_kwargs.get("attack", DEFAULT_ATTACKS)
    return list(attack) if isinstance(attack, list | tuple) else [attack]


def _per_environment(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """One info for each environment: Python numbers, and rows of the arrays (which are fresh each step)."""
    listed: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for name, values in infos.items():
        if name.startswith("_") or name in ("final_obs", "final_info"):
            continue
        rows: Iterable[Any]
        if isinstance(values, dict):  # such as "episode", of RecordEpisodeStatistics
            rows = _per_environment(values, num_envs)
        else:
            rows = values.tolist() if values.ndim == 1 else values
        present = infos.get(f"_{name}", np.ones(num_envs, dtype=bool))
        for info, row, has_it in zip(listed, rows, present.tolist(), strict=True):
            if has_it:
                info[name] = row
    return listed
