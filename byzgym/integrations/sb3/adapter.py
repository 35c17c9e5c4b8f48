"""The native vector environment as a `VecEnv` of stable-baselines3."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from byzgym.envs import ENV_ID
from byzgym.validation import check_int
from byzgym.wrappers import VectorSoftmaxCredits

_FINAL = ("final_obs", "final_info")


class VecEnvAdapter(VecEnv):
    """A Gymnasium vector environment in the same-step autoreset mode, as stable-baselines3 expects it.

    All environments are one object, so attributes and methods concern all of them: `get_attr` and
    `env_method` give the same value for each index (the method is called once), and `set_attr` and
    `env_method` for some of them only are refused. Options of `set_options` have no effect.

    Args:
        venv: The vector environment, wrapped or not.

    Raises:
        ValueError: If it is not in the "SameStep" autoreset mode.
    """

    def __init__(self, venv: VectorEnv[Any, Any, Any]) -> None:
        mode = venv.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                f"venv must be built with autoreset_mode='SameStep', got {mode}; "
                "byzgym.integrations.sb3.make_vec_env does so"
            )
        self.venv = venv
        self._actions = np.zeros(0)
        super().__init__(venv.num_envs, venv.single_observation_space, venv.single_action_space)

    def reset(self) -> VecEnvObs:
        """Begin new episodes, with the seeds given to `seed` since the last reset; returns observations."""
        # VectorEnv is annotated for one seed; the environment takes one for each as well.
        seeds: Any = None if self._seeds[0] is None else list(self._seeds)
        observation, infos = self.venv.reset(seed=seeds)
        self.reset_infos = _per_environment(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions [E, n] for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Play one round.

        Returns:
            Observations, rewards [E] float32, dones [E] and one info per environment. Where an episode ended,
            the info is that of its last round, with ``terminal_observation`` and the test metrics; the info
            of the new episode is in ``reset_infos``.
        """
        observation, rewards, terminated, truncated, infos = self.venv.step(self._actions)
        dones = terminated | truncated
        listed = _per_environment(infos, self.num_envs)
        if dones.any():
            last = _per_environment(infos["final_info"], self.num_envs)
            for env in np.flatnonzero(dones).tolist():
                # Wrappers add what they say of the last round, such as "episode", to the new info.
                added = {name: listed[env].pop(name) for name in listed[env].keys() - last[env].keys()}
                self.reset_infos[env], listed[env] = listed[env], {**last[env], **added}
                listed[env]["terminal_observation"] = infos["final_obs"][env]
        for info, late in zip(listed, (truncated & ~terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = late
        return observation, rewards.astype(np.float32), dones, listed

    def close(self) -> None:
        """Close the vector environment."""
        self.venv.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute of the vector environment, once per index."""
        return [_attribute(self.venv, attr_name)] * len(self._chosen(indices))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the (unwrapped) vector environment.

        Raises:
            ValueError: If ``indices`` are not all environments.
        """
        self._require_all(indices)
        setattr(self.venv.unwrapped, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the vector environment once; its result, once per environment.

        Raises:
            ValueError: If ``indices`` are not all environments.
        """
        self._require_all(indices)
        return [_attribute(self.venv, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether the vector environment has a wrapper of this class, once per index."""
        wrapped = any(isinstance(layer, wrapper_class) for layer in _layers(self.venv))
        return [wrapped] * len(self._chosen(indices))

    def _chosen(self, indices: VecEnvIndices) -> list[int]:
        return list(self._get_indices(indices))

    def _require_all(self, indices: VecEnvIndices) -> None:
        if set(self._chosen(indices)) != set(range(self.num_envs)):
            raise ValueError(
                "the environments of a native vector environment are one object: indices must be None or all "
                f"of them, got {indices!r}"
            )


def make_vec_env(
    num_envs: int, seed: int | None = None, softmax_beta: float | None = None, **env_kwargs: Any
) -> VecEnvAdapter:
    """The environment for stable-baselines3: native, batched, with credits or logits as actions.

    Args:
        num_envs: E.
        seed: Environment i is seeded with ``seed + i`` at the first reset.
        softmax_beta: If given, actions are logits in [-1, 1] (see `byzgym.wrappers.SoftmaxCredits`).
        env_kwargs: Keyword arguments of the environment.

    Raises:
        ValueError: If a value is not allowed.
        TypeError: If an argument does not exist.
    """
    if "autoreset_mode" in env_kwargs:
        raise TypeError("autoreset_mode is always 'SameStep' here, which stable-baselines3 needs")
    seed = None if seed is None else check_int("seed (unless None)", seed, low=0)
    venv: VectorEnv[Any, Any, Any] = gym.make_vec(
        ENV_ID, num_envs=num_envs, autoreset_mode="SameStep", **env_kwargs
    )
    if softmax_beta is not None:
        venv = VectorSoftmaxCredits(venv, softmax_beta)
    adapter = VecEnvAdapter(venv)
    if seed is not None:
        adapter.seed(seed)
    return adapter


def _per_environment(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """One dict per environment: Python numbers, and rows of the arrays (which are fresh each step)."""
    listed: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for name, values in infos.items():
        if name.startswith("_") or name in _FINAL:
            continue
        rows: Iterable[Any]
        if isinstance(values, dict):  # such as "episode", of RecordEpisodeStatistics
            rows = _per_environment(values, num_envs)
        else:
            rows = values.tolist() if values.ndim == 1 else values
        present = infos.get(f"_{name}", np.ones(num_envs, dtype=bool))
        everyone = present.all()
        for env, row in enumerate(rows):
            if everyone or present[env]:
                listed[env][name] = row
    return listed


def _layers(venv: VectorEnv[Any, Any, Any]) -> Iterable[VectorEnv[Any, Any, Any]]:
    yield venv
    while isinstance(venv, VectorWrapper):
        venv = venv.env
        yield venv


def _attribute(venv: VectorEnv[Any, Any, Any], name: str) -> Any:
    """The attribute of the outermost layer that has it."""
    for layer in _layers(venv):
        if hasattr(layer, name):
            return getattr(layer, name)
    raise AttributeError(f"the vector environment has no attribute {name!r}")
