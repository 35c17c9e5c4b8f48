"""Training a stable-baselines3 agent on the native vector environment, and loading one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import gymnasium
import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from byzgym.integrations.sb3.adapter import make_vec_env
from byzgym.integrations.sb3.features import EquivariantExtractor
from byzgym.integrations.sb3.floor import CutAtFloor
from byzgym.integrations.sb3.policies import EquivariantPolicy
from byzgym.validation import check_int, check_real
from byzgym.wrappers import SoftmaxCredits

BETA = 10.0
"""Inverse temperature of the softmax that turns the agent's actions into credits."""
GAMMA = 0.9
"""Discount: what a round's credits are worth shows within some rounds."""

_OWN = {"ppo": "clip_range", "sac": "target_entropy", "td3": "policy_delay", "a2c": "gae_lambda"}
"""What the models of an algorithm hold and those of the ones behind it do not."""


def make(algorithm: str, num_envs: int, seed: int, arguments: Mapping[str, Any]) -> BaseAlgorithm:
    """A learner: ppo and a2c with the permutation-equivariant policy, sac and td3 with its features.

    All learn from rewards cut at a floor and discounted by 0.9. ppo has the settings of agents/ppo.py. The
    others have the defaults of stable-baselines3, but a2c explores less at first, and the buffers of sac and
    td3 are smaller. ``arguments`` are the keyword arguments of the environment.

    Raises:
        ValueError: If a value is not allowed.
        TypeError: If an argument of the environment does not exist.
    """
    check_int("num_envs", num_envs, low=1)
    check_int("seed", seed, low=0, high=2**32 - 1)  # all that NumPy's global generator takes
    env = make_vec_env(num_envs, seed=seed, softmax_beta=BETA, **arguments)
    learner = getattr(stable_baselines3, algorithm.upper())
    common: dict[str, Any] = {"env": CutAtFloor(env), "gamma": GAMMA, "seed": seed, "device": "cpu"}
    if algorithm == "ppo":
        # Rollouts of about 1280 steps in two minibatches, whatever the number of environments.
        length = max(2, 1280 // num_envs // 2 * 2)
        common |= {"n_steps": length, "batch_size": length * num_envs // 2, "n_epochs": 4}
        common["learning_rate"] = _falling
    if algorithm in ("ppo", "a2c"):
        return learner(EquivariantPolicy, policy_kwargs={"log_std_init": -1.0}, **common)
    features = {"features_extractor_class": EquivariantExtractor}
    network = "MultiInputPolicy" if isinstance(env.observation_space, gymnasium.spaces.Dict) else "MlpPolicy"
    return learner(network, policy_kwargs=features, buffer_size=100_000, **common)


def learn(model: BaseAlgorithm, steps: int, progress: Callable[[int], None]) -> None:
    """Train for at least so many environment steps; ``progress`` is called with those just played."""

    class Progress(BaseCallback):
        def _on_step(self) -> bool:
            progress(self.training_env.num_envs)
            return True

    model.learn(steps, callback=Progress())


def load(
    path: Path, algorithm: str, env: gymnasium.Env[Any, Any], softmax_beta: float | None = None
) -> tuple[BaseAlgorithm, gymnasium.Env[Any, Any]]:
    """Read a model, and put what turns its actions into credits around the environment where it needs that.

    Args:
        path: What stable-baselines3 has saved. A model does not hold the beta that it was trained with.
        algorithm: What has saved it.
        env: Its actions are credits.
        softmax_beta: Of the softmax that turns logits into credits, greater than 0; `BETA` where None.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no model of this algorithm, its spaces are not those of the environment, or beta
            is not allowed.
    """
    beta = BETA if softmax_beta is None else check_real("softmax_beta", softmax_beta, above=0)
    if not path.is_file():
        raise FileNotFoundError(f"there is no model {path}")
    try:
        model = _read(path, algorithm)
    except Exception as error:  # whatever unpickling a foreign file raises
        raise ValueError(f"{path} is not a model that {algorithm} has saved: {error}") from None
    space = model.action_space
    logits = isinstance(space, gymnasium.spaces.Box) and bool((space.low < 0).any())
    if softmax_beta is not None and not logits:
        raise ValueError(f"softmax_beta is for a model whose actions are logits; those of {path} are not")
    wrapped = SoftmaxCredits(env, beta) if logits else env
    for name in ("observation_space", "action_space"):
        given, here = getattr(model, name), getattr(wrapped, name)
        if given != here:
            raise ValueError(f"{path} was trained with the {name} {given}, but the environment has {here}")
    return model, wrapped


def _read(path: Path, algorithm: str) -> BaseAlgorithm:
    """The model, unless another algorithm has saved it: a2c would read, and play, that of ppo."""
    with ZipFile(path) as archive:
        held = json.loads(archive.read("data"))
    saved_by = next((name for name, entry in _OWN.items() if entry in held), algorithm)
    if saved_by != algorithm:
        raise ValueError(f"it is one of {saved_by}")
    return getattr(stable_baselines3, algorithm.upper()).load(path, device="cpu")


def _falling(remaining: float) -> float:
    return 1e-3 * remaining  # a lambda would be saved as bytecode, which other versions of Python cannot read
