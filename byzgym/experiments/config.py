"""What a comparison is: its arguments, and what follows from them."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import tyro

from byzgym.experiments import specs
from byzgym.randomness import episode_seed
from byzgym.validation import check_int

DEFAULT_POLICIES = ("mean", "krum", "median", "geometric_median", "faba", "gaa", "oracle")
DEFAULT_ATTACKS = ("gaussian", "sign_flip", "ipm", "alie")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The training run in which policies are judged. Names may carry parameters: `name:key=value,...`."""

    task: str = "digits"
    """Data, such as digits, `mnist:root=data` or `synthetic:num_features=4`."""
    model: str | None = None
    """Model, such as softmax, mlp:128,128 or lenet; None is the task's own."""
    num_workers: int = 10
    """Number of workers n."""
    roles: str = "static"
    """Who attacks when, such as static or `randomized:period=50,probability=0.5`."""
    partition: str = "iid"
    """How the workers share the data, such as iid or `dirichlet:alpha=0.1`."""
    batch_size: int | None = None
    """Samples per worker and round; None is the task's own."""
    learning_rate: float | None = None
    """Step size of the server; None is the task's own."""
    momentum: float = 0.0
    """Momentum of the server, from 0 to below 1."""
    worker_momentum: float = 0.0
    """Momentum of the workers, from 0 to below 1."""
    qv_size: int = 10
    """Samples in the server's quasi-validation (QV) set."""
    qv_source: str = "held_out"
    """Where the QV samples come from, such as held_out, train or `noise:std=0.5`."""
    rounds: int = 600
    """Rounds per run."""
    device: str = "cpu"
    """A torch device."""

    def simulation_arguments(self) -> dict[str, Any]:
        """The keyword arguments of the simulation and of the environment."""
        arguments = {field.name: getattr(self, field.name) for field in dataclasses.fields(RunConfig)}
        named = ("task", "roles", "partition", "qv_source")
        return arguments | {name: specs.parse(arguments[name]) for name in named}


_SEVEN_TENTHS = tyro.conf.arg(help_behavior_hint="(default: seven tenths of the workers)")


@dataclass(frozen=True, kw_only=True)
class Comparison(RunConfig):
    """Policies times attacks times numbers of Byzantine workers times seeds.

    In Python a single policy, attack or number may be given without a list around it.

    Raises:
        ValueError: If a value is not allowed, or a name is given twice.
    """

    policies: tuple[str, ...] = DEFAULT_POLICIES
    """Rules and other agents, such as mean, krum, `gaa:window=1`, and oracle, the reference."""
    attacks: tuple[str, ...] = DEFAULT_ATTACKS
    """Attacks, such as sign_flip or `ipm:epsilon=1.0`."""
    num_byzantine: Annotated[tuple[int, ...], _SEVEN_TENTHS] = ()
    """Numbers f of Byzantine workers, from 0 to n - 1."""
    seeds: int = 5
    """Number of seeds; every policy and attack gets the same ones, from 0 on."""
    evaluate_every: int | None = None
    """Rounds between points of the curves; None is a thirtieth of the rounds."""

    def __post_init__(self) -> None:
        check_int("seeds", self.seeds, low=1)
        check_int("rounds", self.rounds, low=1)
        check_int("num_workers", self.num_workers, low=1)
        if self.evaluate_every is not None:
            check_int("evaluate_every", self.evaluate_every, low=1)
        numbers = _as_tuple(self.num_byzantine) or (_most(self.num_workers),)
        for number in numbers:
            check_int("num_byzantine", number, low=0, high=self.num_workers - 1)
        policies, attacks = (
            tuple(specs.canonical(text) for text in _as_tuple(given))
            for given in (self.policies, self.attacks)
        )
        for name, values in (("num_byzantine", numbers), ("policies", policies), ("attacks", attacks)):
            _check_distinct(name, values)
            object.__setattr__(self, name, values)

    @property
    def interval(self) -> int:
        """Rounds between points of the curves."""
        return self.evaluate_every or max(1, self.rounds // 30)

    @property
    def members(self) -> list[tuple[str, int]]:
        """Attack and seed of each environment of one batch."""
        return [(attack, seed) for attack in self.attacks for seed in range(self.seeds)]

    @property
    def simulation_seeds(self) -> list[int]:
        """What the simulation is reset with: seed s equals ``env.reset(seed=s)`` in the environment."""
        return [episode_seed(np.random.default_rng(seed)) for _, seed in self.members]

    def heading(self, num_byzantine: int) -> str:
        """How many workers are Byzantine, as headings say it."""
        if self.roles == "static":
            return f"{num_byzantine} of {self.num_workers} workers Byzantine"
        return f"{num_byzantine} of {self.num_workers} workers assigned to be Byzantine, roles {self.roles}"


def options(config: Any, kind: type[Any]) -> list[str]:
    """Command-line options for the fields of the class ``kind``, without those at their defaults."""
    words = []
    for field in dataclasses.fields(kind):
        value = getattr(config, field.name)
        if value == field.default or (field.name, value) == ("num_byzantine", (_most(config.num_workers),)):
            continue
        words.append("--" + field.name.replace("_", "-"))
        words += [str(entry) for entry in value] if isinstance(value, tuple) else [str(value)]
    return words


def command(imports: Sequence[str], *words: str) -> str:
    """A command line of byzgym that imports the user's modules first."""
    return shlex.join(["byzgym", *(word for name in imports for word in ("--import", name)), *words])


def _most(num_workers: int) -> int:
    """Seven tenths of the workers: the hard case that byzgym is about."""
    return num_workers * 7 // 10


def _as_tuple(value: Any) -> tuple[Any, ...]:
    """A single value as a tuple of one; a list as a tuple."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def _check_distinct(name: str, values: Sequence[Any]) -> None:
    if not values:
        raise ValueError(f"{name} must not be empty")
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{name} must not repeat {', '.join(twice)}")
