"""training.json beside a model: how it was trained, and so what it observes and what its actions mean."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import byzgym
from byzgym.envs.config import EnvConfig
from byzgym.simulation.config import config_from
from byzgym.validation import check_int, check_real, shown

NAME = "training.json"
CHECKPOINTS = "checkpoints"
"""The folder of checkpoints beside training.json."""


def versions() -> dict[str, str]:
    """The versions of what a training depends on."""
    found = {"byzgym": byzgym.__version__, "python": platform.python_version()}
    for name in ("stable_baselines3", "sb3_contrib", "torch", "numpy", "gymnasium"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # sb3-contrib is an extra
            continue
    return found


def plain(value: Any) -> Any:
    """The value as JSON holds it; a TypeError if it holds an object that JSON has no form for."""
    return json.loads(json.dumps(value))


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model was trained.

    >>> config = TrainingConfig(algorithm="ppo", environment={"observation": ("norms", "trust")})
    >>> config.environment
    {'observation': ['norms', 'trust']}

    Args:
        algorithm: Such as "ppo" or "recurrent_ppo".
        environment: Keyword arguments of the environment; names instead of objects.
        softmax_beta: Inverse temperature of the softmax that turns actions into credits; None if there is
            none.
        reward_floor: In training, rewards are raised to this, and an episode ends where one was below.
        settings: What the learner is made with, see `byzgym.integrations.sb3.learners.make`.
        seed: Of the learner and of its environments.
        num_envs: Environments side by side.
        steps: Environment steps in all.
        evaluate_every: Steps between evaluations.
        evaluation_episodes: Episodes of an evaluation.
        steps_done: Steps of the last checkpoint.
        versions: Of the libraries.
        imports: The user's modules that have been imported (`byzgym --import`).

    Raises:
        ValueError: If a number is not allowed.
        TypeError: If JSON has no form for a value.
    """

    algorithm: str
    environment: dict[str, Any]
    softmax_beta: float | None = None
    reward_floor: float = -0.2
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    num_envs: int = 64
    steps: int = 150_000
    evaluate_every: int = 20_000
    evaluation_episodes: int = 32
    steps_done: int = 0
    versions: dict[str, str] = field(default_factory=versions)
    imports: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for each in fields(self):  # what is read back from a file is the same
            object.__setattr__(self, each.name, plain(getattr(self, each.name)))
        if not isinstance(self.algorithm, str):
            raise ValueError(f"algorithm must be a name such as 'ppo', got {shown(self.algorithm)}")
        for name in ("environment", "settings", "versions"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name} must be a mapping, got {shown(getattr(self, name))}")
        try:
            config_from(EnvConfig, self.environment)
        except TypeError as error:
            raise TypeError(f"environment: {error}") from None
        if self.softmax_beta is not None:
            check_real("softmax_beta (unless None)", self.softmax_beta, above=0)
        check_real("reward_floor", self.reward_floor, high=0)
        check_int("seed", self.seed, low=0, high=2**32 - 1)  # all that NumPy's global generator takes
        for name in ("num_envs", "steps", "evaluate_every", "evaluation_episodes"):
            check_int(name, getattr(self, name), low=1)
        check_int("steps_done", self.steps_done, low=0)
        if not isinstance(self.imports, list) or not all(isinstance(name, str) for name in self.imports):
            raise ValueError(f"imports must be a list of names, got {shown(self.imports)}")

    @classmethod
    def read(cls, path: Path) -> TrainingConfig:
        """Read a training.json.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it does not hold what it should; the message names the file, the key, the value and
                what is allowed.
            TypeError: If it holds a key that does not exist.
        """
        held = _content(path)
        if not _is_own(held):
            raise ValueError(f"{path} is not of byzgym train")
        with said_by(path):
            missing = [each.name for each in fields(cls) if each.name not in held]
            if missing:
                raise ValueError(f"{', '.join(missing)} missing")
            made: TrainingConfig = config_from(cls, held)
            return made

    @classmethod
    def beside(cls, model: Path) -> TrainingConfig | None:
        """The configuration beside a model; None if there is none, or one of another program."""
        path = file_beside(model)
        return cls.read(path) if path.is_file() and _is_own(_content(path)) else None

    def text(self) -> str:
        """The content of training.json."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def contradictions(self, other: TrainingConfig, names: set[str]) -> list[str]:
        """Of the arguments with these names those that the other has different, as text."""
        mine, others = self._arguments(), other._arguments()
        return [
            f"{name} {spelt(mine[name])} instead of {spelt(others.get(name))}"
            for name in mine
            if name in names and mine[name] != others.get(name)
        ]

    def _arguments(self) -> Mapping[str, Any]:
        return {**self.environment, **asdict(self)}


def file_beside(model: Path) -> Path:
    """Where the training.json of a model is, or would be; that of a checkpoint is in the folder above."""
    return (model.parent.parent if model.parent.name == CHECKPOINTS else model.parent) / NAME


@contextmanager
def said_by(path: Path | None) -> Iterator[None]:
    """Name the file in errors about what it says; None for no file."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if path is None:
            raise
        raise (ValueError if isinstance(error, ValueError) else TypeError)(f"{path}: {error}") from error


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON: {error}") from None


def _is_own(held: Any) -> bool:
    """Whether `byzgym train` has written it, which always says its version, and not another program."""
    return isinstance(held, dict) and isinstance(held.get("versions"), dict) and "byzgym" in held["versions"]


def spelt(value: Any) -> str:
    """A value as the command line takes it.

    >>> spelt(["ipm", "alie"]), spelt(None), spelt(0.5)
    ('ipm alie', 'None', '0.5')
    """
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
