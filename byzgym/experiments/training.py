"""Training a stable-baselines3 agent on the native vector environment, and loading one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from byzgym.integrations.sb3 import CutAtFloor, EquivariantExtractor, EquivariantPolicy, make_vec_env
from byzgym.validation import check_choice, check_int
from byzgym.wrappers import SoftmaxCredits

BETA = 10.0
"""Inverse temperature of the softmax that turns the agent's actions into credits."""
GAMMA = 0.9
"""Discount: what a round's credits are worth shows within some rounds."""

_ON_POLICY = ("ppo", "a2c")
_ALGORITHMS = (*_ON_POLICY, "sac", "td3")


def claim(path: Path, overwrite: bool) -> None:
    """Check that a model may be written to ``path``; nothing is changed.

    Raises:
        FileExistsError: If it is there and ``overwrite`` is False.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another folder (--out) or replace it (--overwrite)")


def make(algorithm: str, num_envs: int, seed: int, arguments: Mapping[str, Any]) -> BaseAlgorithm:
    """A learner: on-policy ones with the permutation-equivariant policy, the others with its features.

    PPO has the settings of the recipe agents/ppo.py, whose results agents/README.md tells; all learn from
    rewards cut at a floor. The others have the defaults of stable-baselines3 otherwise.

    Args:
        algorithm: "ppo", "a2c", "sac" or "td3".
        num_envs: Environments side by side, at least 1.
        seed: Of the learner and its environments, at least 0.
        arguments: The keyword arguments of the environment.

    Raises:
        ValueError: If a value is not allowed.
        TypeError: If an argument of the environment does not exist.
    """
    check_int("num_envs", num_envs, low=1)
    env = make_vec_env(num_envs, seed=check_int("seed", seed, low=0), softmax_beta=BETA, **arguments)
    common: dict[str, Any] = {"env": CutAtFloor(env), "gamma": GAMMA, "seed": seed, "device": "cpu"}
    if algorithm == "ppo":
        # Rollouts of about 1280 steps in two minibatches, whatever the number of environments.
        length = max(2, 1280 // num_envs // 2 * 2)
        common |= {"n_steps": length, "batch_size": length * num_envs // 2, "n_epochs": 4}
        common["learning_rate"] = _falling
    if algorithm in _ON_POLICY:
        narrow = {"log_std_init": -1.0}
        learner: BaseAlgorithm = _class_of(algorithm)(EquivariantPolicy, policy_kwargs=narrow, **common)
        return learner
    features = {"features_extractor_class": EquivariantExtractor}
    network = "MultiInputPolicy" if isinstance(env.observation_space, gymnasium.spaces.Dict) else "MlpPolicy"
    learner = _class_of(algorithm)(network, policy_kwargs=features, buffer_size=100_000, **common)
    return learner


def learn(model: BaseAlgorithm, steps: int, progress: Callable[[int], None]) -> None:
    """Train for at least so many environment steps; ``progress`` is called with those just played."""
    model.learn(steps, callback=_Progress(progress))


def load(
    path: Path, algorithm: str, env: gymnasium.Env[Any, Any]
) -> tuple[BaseAlgorithm, gymnasium.Env[Any, Any]]:
    """Read a model, and put what turns its actions into credits around the environment where it needs that.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no model of this algorithm, or its spaces are not those of the environment.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no model {path}")
    try:
        model = _class_of(algorithm).load(path, device="cpu")
    except Exception as error:  # whatever unpickling a foreign file raises
        raise ValueError(f"{path} is not a model that {algorithm} has saved: {error}") from None
    space: Any = model.action_space
    wrapped = SoftmaxCredits(env, BETA) if (space.low < 0).any() else env
    for name in ("observation_space", "action_space"):
        expected, offered = getattr(model, name), getattr(wrapped, name)
        if expected != offered:
            raise ValueError(
                f"{path} was trained with the {name} {expected}, but the environment has {offered}"
            )
    return model, wrapped


def _falling(remaining: float) -> float:
    return 1e-3 * remaining


def _class_of(algorithm: str) -> type[Any]:
    check_choice("algorithm", algorithm, _ALGORITHMS)
    found: type[Any] = getattr(stable_baselines3, algorithm.upper())
    return found


class _Progress(BaseCallback):
    def __init__(self, progress: Callable[[int], None]) -> None:
        super().__init__()
        self._progress = progress

    def _on_step(self) -> bool:
        self._progress(self.training_env.num_envs)
        return True
