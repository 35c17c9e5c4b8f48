"""What a comparison is: its arguments, and what follows from them."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from byzgym import agents, attacks, specs
from byzgym.ambient import episode_seed
from byzgym.validation import check_int

DEFAULT_POLICIES = ("mean", "krum", "median", "geometric_median", "faba", "gaa", "oracle")
COMPARED_ATTACKS = ("gaussian", "sign_flip", "ipm", "alie")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The training run in which policies are judged. Names may carry parameters: `name:key=value,...`."""

    task: str = "digits"
    """Data, such as digits, mnist or `synthetic:num_features=4`."""
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
    data_root: str | None = None
    """Folder of the data of image tasks; the same as the parameter root of the task."""
    rounds: int = 600
    """Rounds per run."""
    device: str = "cpu"
    """A torch device."""

    def environment(self) -> dict[str, Any]:
        """The keyword arguments of the simulation and of the environment.

        Raises:
            ValueError: If a name with parameters is not of the form `specs.parse` reads.
        """
        task = specs.parse(self.task)
        if self.data_root is not None:
            task["root"] = self.data_root
        names = {key: specs.parse(getattr(self, key)) for key in ("roles", "partition", "qv_source")}
        plain = ("model", "num_workers", "batch_size", "learning_rate", "momentum", "worker_momentum")
        rest = {key: getattr(self, key) for key in (*plain, "qv_size", "rounds", "device")}
        return {"task": task, **names, **rest}


@dataclass(frozen=True, kw_only=True)
class Comparison(Setting):
    """Policies times attacks times numbers of Byzantine workers times seeds.

    Raises:
        ValueError: If a value is not allowed, or a name is given twice.
    """

    policies: tuple[str, ...] = DEFAULT_POLICIES
    """Rules and other agents, such as mean, krum, `gaa:window=1`, and oracle, the reference."""
    attacks: tuple[str, ...] = COMPARED_ATTACKS
    """Attacks, such as sign_flip or `ipm:epsilon=1.0`."""
    num_byzantine: tuple[int, ...] = (7,)
    """Numbers f of Byzantine workers, each less than the number of workers."""
    seeds: int = 5
    """Number of seeds, at least 1; every policy and attack gets the same ones, from 0 on."""
    evaluate_every: int | None = None
    """Rounds between points of the curves; None is a thirtieth of the rounds."""

    def __post_init__(self) -> None:
        check_int("seeds", self.seeds, low=1)
        check_int("rounds", self.rounds, low=1)
        check_int("num_workers", self.num_workers, low=1)
        if self.evaluate_every is not None:
            check_int("evaluate_every", self.evaluate_every, low=1)
        for number in _distinct("num_byzantine", self.num_byzantine):
            check_int("num_byzantine", number, low=0, high=self.num_workers - 1)
        for key in ("policies", "attacks"):
            labels = tuple(specs.canonical(text) for text in getattr(self, key))
            object.__setattr__(self, key, _distinct(key, labels))

    def check_names(self) -> None:
        """Raise a ValueError unless all policies and attacks are known; results need not be of known ones."""
        for key, known in (("policies", agents.names()), ("attacks", attacks.names())):
            for text in getattr(self, key):
                name = specs.parse(text)["name"]
                if name not in known:
                    raise ValueError(f"unknown name {name!r} in {key}; known: {', '.join(known)}")

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

    def command(self) -> str:
        """The command line that plays this comparison, without its results folder."""
        words = ["byzgym", "compare"]
        return shlex.join([*words, *flags(self, dataclasses.fields(self))])

    def workers(self, num_byzantine: int) -> str:
        """Whom the server faces, as headings say it."""
        if self.roles == "static":
            return f"{num_byzantine} of {self.num_workers} workers Byzantine"
        return f"{num_byzantine} of {self.num_workers} workers assigned to be Byzantine, roles {self.roles}"

    def to_json(self) -> dict[str, Any]:
        """The arguments, as config.json holds them."""
        arguments: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return arguments

    @classmethod
    def from_json(cls, arguments: Mapping[str, Any]) -> Comparison:
        """The inverse of `to_json`.

        Raises:
            ValueError: If an argument is missing, unknown or not allowed.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if set(arguments) != known:
            raise ValueError(f"the arguments must be {sorted(known)}, got {sorted(arguments)}")
        for name, hint in get_type_hints(cls).items():
            check_kind(name, arguments[name], hint)
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
        return cls(**given)


def flags(arguments: Any, fields: Sequence[dataclasses.Field[Any]]) -> list[str]:
    """The words of a command line that give a dataclass these fields, without those at their defaults."""
    words = []
    for field in fields:
        value = getattr(arguments, field.name)
        if value == field.default:
            continue
        words.append("--" + field.name.replace("_", "-"))
        words += [str(entry) for entry in value] if isinstance(value, tuple) else [str(value)]
    return words


def check_kind(name: str, value: Any, hint: Any) -> None:
    """Check a value from a JSON file against a type: str, int, float, one of them or None, or a tuple of one.

    Raises:
        ValueError: If it is of another type.
    """
    if get_origin(hint) is tuple:
        kind = get_args(hint)[0]
        if not isinstance(value, list) or not all(_is(entry, kind) for entry in value):
            raise ValueError(f"{name} must be a list of {_KINDS[kind]}s, got {value!r}")
    elif not any(_is(value, kind) for kind in get_args(hint) or (hint,)):
        kinds = " or ".join(
            f"a {_KINDS[kind]}" if kind in _KINDS else "null" for kind in get_args(hint) or (hint,)
        )
        raise ValueError(f"{name} must be {kinds}, got {value!r}")


_KINDS: dict[Any, str] = {str: "string", int: "whole number", float: "number"}


def _is(value: Any, kind: type[Any]) -> bool:
    if isinstance(value, bool):  # which is an int to Python
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _distinct(name: str, values: Sequence[Any]) -> Sequence[Any]:
    if not values:
        raise ValueError(f"{name} must not be empty")
    twice = sorted({str(value) for value in values if list(values).count(value) > 1})
    if twice:
        raise ValueError(f"{name} must not repeat {', '.join(twice)}")
    return values
