"""The learners of stable-baselines3 and sb3-contrib: their settings, and how they are made and read."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from byzgym.ambient import seeded
from byzgym.integrations.sb3.adapter import attacks_of, make_vec_env
from byzgym.integrations.sb3.config import TrainingConfig
from byzgym.integrations.sb3.features import EquivariantExtractor
from byzgym.integrations.sb3.floor import CutAtFloor
from byzgym.integrations.sb3.policies import EquivariantDirichletPolicy, EquivariantPolicy
from byzgym.integrations.sb3.sac import EquivariantSACPolicy
from byzgym.validation import shown

BETA = 10.0
"""Inverse temperature of the softmax that turns the agent's actions into credits."""
FIRST_SEED = 2**40
"""Training environments have seeds from here on, which no evaluation has; see `environments`."""

_ROLLOUT = 1280
"""Steps of a rollout of ppo, whatever the number of environments."""
_STEPS_PER_UPDATE = 16
"""Steps of all environments for each gradient step of sac, td3 and tqc."""
_COMMON = {"gamma": 0.9}  # what a round's credits are worth shows within some rounds
_ON_POLICY = {"policy": "EquivariantPolicy", "policy_kwargs": {"log_std_init": -1.0}}
_FEATURES = {"features_extractor_class": "EquivariantExtractor"}
_OFF_POLICY = {
    "learning_rate": "lin_0.001",
    "learning_starts": 640,
    "batch_size": 256,
    "buffer_size": 100_000,
    "tau": 0.01,
    "gamma": 0.5,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {**_ON_POLICY, "learning_rate": "lin_0.001", "n_epochs": 4},
    "a2c": _ON_POLICY,
    "recurrent_ppo": {
        "policy": "EquivariantLstmPolicy",
        "policy_kwargs": {"log_std_init": -1.0, "lstm_hidden_size": 16},
        "learning_rate": "lin_0.003",
        "n_epochs": 4,
    },
    "sac": {
        **_OFF_POLICY,
        "policy": "EquivariantSACPolicy",
        "policy_kwargs": {
            "net_arch": [32, 32],
            "n_critics": 1,
            "log_std_init": -1.0,
            "softmax_beta": BETA,
        },
        "ent_coef": "auto_0.0001",
    },
    "td3": {**_OFF_POLICY, "policy_kwargs": _FEATURES},
    "tqc": {**_OFF_POLICY, "policy_kwargs": _FEATURES, "ent_coef": "auto_0.0001"},
}
"""What `byzgym train` gives each learner, beside what `settings` works out. Those of ppo, recurrent_ppo and
sac are the recipes' in agents/, whose README says what they reach."""

_CLASSES = {
    each.__name__: each
    for each in (EquivariantPolicy, EquivariantDirichletPolicy, EquivariantSACPolicy, EquivariantExtractor)
}
_OWN = {
    "top_quantiles_to_drop_per_net": "tqc",
    "exploration_fraction": "dqn",
    "target_entropy": "sac",
    "policy_delay": "td3",
    "clip_range": "ppo",
    "gae_lambda": "a2c",
}
"""What the models of an algorithm hold, and those of the algorithms behind it do not."""


@dataclass(frozen=True)
class Falling:
    """A learning rate that falls linearly to zero, "lin_0.001" in settings, as rl-zoo3 writes it.

    >>> Falling(0.001)(0.5), Falling(0.001)(-0.1)
    (0.0005, 0.0)
    """

    initial: float

    def __call__(self, remaining: float) -> float:
        """The rate when this part remains, from 1 to 0; less than 0 where the last rollout goes too far."""
        return self.initial * max(0.0, remaining)


def settings(algorithm: str, num_envs: int, environment: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with which `byzgym train` makes a learner.

    Raises:
        ValueError: If there are none for the algorithm, or it cannot learn the kind of actions.
    """
    if algorithm not in SETTINGS:
        raise ValueError(f"algorithm must be one of {', '.join(SETTINGS)}, got {algorithm!r}")
    made = {**_COMMON, **SETTINGS[algorithm]}
    action = environment.get("action", "credits")
    if action not in ("credits", "null_slot", "rule"):
        raise ValueError(f"action must be 'credits', 'null_slot' or 'rule' for a training, got {action!r}")
    if action == "rule":
        if algorithm in ("sac", "td3", "tqc"):
            raise ValueError(
                f"algorithm must be ppo, a2c or recurrent_ppo for action='rule', got {algorithm!r}"
            )
        # The equivariant policies have an action for each worker.
        made |= {"policy": "Policy", "policy_kwargs": _FEATURES}
        if algorithm == "recurrent_ppo":
            made |= {"policy": "LstmPolicy", "policy_kwargs": {**_FEATURES, "lstm_hidden_size": 64}}
    made.setdefault("policy", "Policy")
    if not made["policy"].startswith("Equivariant"):
        observation = environment.get("observation", "pooled")
        several = not isinstance(observation, str) or observation == "all"
        made["policy"] = ("MultiInput" if several else "Mlp") + made["policy"]
    if algorithm in ("ppo", "recurrent_ppo"):  # two minibatches
        length = max(2, _ROLLOUT // num_envs // 2 * 2)
        made |= {"n_steps": length, "batch_size": length * num_envs // 2}
    if algorithm in ("sac", "td3", "tqc"):
        made["gradient_steps"] = max(1, num_envs // _STEPS_PER_UPDATE)
    return made


def softmax_beta(environment: Mapping[str, Any]) -> float | None:
    """The softmax with which `byzgym train` makes credits of actions; None if actions are rules."""
    return None if environment.get("action") == "rule" else BETA


def environments(config: TrainingConfig) -> VecEnv:
    """The environments of a training: counted in episodes, and with rewards cut at the floor.

    Learners without a replay buffer use each round once. If there are enough environments, each then has one
    of the attacks for good, so that none is rare.
    """
    once = config.algorithm in ("ppo", "a2c", "recurrent_ppo")
    enough = config.num_envs >= len(attacks_of(config.environment))
    env = make_vec_env(
        config.num_envs,
        softmax_beta=config.softmax_beta,
        one_attack_each=once and enough,
        **config.environment,
    )
    return CutAtFloor(VecMonitor(env), config.reward_floor)


def make(config: TrainingConfig) -> BaseAlgorithm:
    """A learner with its environments.

    Settings are the arguments of its class. A class of byzgym is given by its name, and a learning rate that
    falls linearly as "lin_" and its initial value. Trainings with different seeds have different
    environments, and evaluations have others again.

    Raises:
        ValueError: If a value is not allowed.
        TypeError: If an argument does not exist.
        ImportError: If the algorithm needs sb3-contrib, which is not installed.
    """
    kind = learner_class(config.algorithm)
    given = dict(config.settings)
    policy, policy_kwargs = given.pop("policy", None), given.pop("policy_kwargs", {})
    if policy is None:
        raise ValueError(f"settings must name a policy, such as 'EquivariantPolicy', got {config.settings}")
    if not isinstance(policy_kwargs, Mapping):
        raise ValueError(f"policy_kwargs must be a mapping, got {shown(policy_kwargs)}")
    policy_kwargs = {name: _named(value) for name, value in policy_kwargs.items()}
    if isinstance(given.get("learning_rate"), str):
        given["learning_rate"] = _falling(given["learning_rate"])
    env = environments(config)
    try:
        model = kind(
            _named(policy), env, policy_kwargs=policy_kwargs, seed=config.seed, device="cpu", **given
        )
    except AssertionError as error:  # with which stable-baselines3 refuses some values
        raise ValueError(f"settings: {error}") from error
    env.seed(FIRST_SEED + (config.seed << 20))  # after the learner, which gives them its own seed
    return model


def learner_class(algorithm: str) -> type[BaseAlgorithm]:
    """The class of an algorithm of stable-baselines3 or sb3-contrib, by its name in small letters.

    >>> learner_class("ppo").__name__
    'PPO'
    """
    found: dict[str, type[BaseAlgorithm]] = {}
    missing = False
    for library in ("stable_baselines3", "sb3_contrib"):
        try:
            members = vars(importlib.import_module(library)).values()
        except ImportError:  # an extra
            missing = True
            continue
        found |= {
            m.__name__.lower(): m for m in members if isinstance(m, type) and issubclass(m, BaseAlgorithm)
        }
    name = algorithm.replace("_", "").lower()
    if name not in found:
        if missing:
            raise ImportError(
                f"algorithm {algorithm!r} is not in stable-baselines3; for those of sb3-contrib install it: "
                "pip install 'byzgym[train]'"
            )
        raise ValueError(f"algorithm must be one of {', '.join(sorted(found))}, got {algorithm!r}")
    return found[name]


def read(path: Path, algorithm: str | None = None) -> BaseAlgorithm:
    """Read a model; no global random state moves.

    Args:
        path: What stable-baselines3 has saved.
        algorithm: What has saved it; where None, this is found out for the usual ones.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no model, or one of another algorithm: a2c would read, and play, that of ppo.
        ImportError: If the algorithm needs sb3-contrib, which is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no model {path}")
    kind = None if algorithm is None else learner_class(algorithm)
    try:
        saved_by = _saved_by(path)
        if algorithm is not None and saved_by not in (None, algorithm) and algorithm in (*SETTINGS, "dqn"):
            raise ValueError(f"it is one of {saved_by}")
        if kind is None:
            kind = learner_class(saved_by or "ppo")
        with unseeded():
            return kind.load(path, device="cpu")
    except ImportError:
        raise
    except Exception as error:  # whatever unpickling a foreign file raises
        by = algorithm or "stable-baselines3"
        raise ValueError(f"{path} is not a model that {by} has saved: {error}") from None


@contextmanager
def unseeded() -> Iterator[None]:
    """Put the global random generators back after a block that seeds them and initialises networks."""
    with seeded(torch.Generator().manual_seed(0)):
        yield


def _saved_by(path: Path) -> str | None:
    with ZipFile(path) as archive:
        held = json.loads(archive.read("data"))
    found = next((name for entry, name in _OWN.items() if entry in held), None)
    return "recurrent_ppo" if found == "ppo" and "recurrent" in str(held.get("policy_class")) else found


def _falling(rate: str) -> Falling:
    try:
        return Falling(float(rate.removeprefix("lin_")))
    except ValueError:
        raise ValueError(f"learning_rate must be a number or such as 'lin_0.001', got {rate!r}") from None


def _named(value: Any) -> Any:
    """The class of byzgym with this name, or the value itself."""
    if value == "EquivariantLstmPolicy":
        from byzgym.integrations.sb3.recurrent import EquivariantLstmPolicy  # needs sb3-contrib

        return EquivariantLstmPolicy
    return _CLASSES.get(value, value) if isinstance(value, str) else value


def gives_logits(space: spaces.Space[Any]) -> bool:
    """Whether the actions of a model are logits, of which a softmax makes credits."""
    return isinstance(space, spaces.Box) and bool((space.low < 0).any())
