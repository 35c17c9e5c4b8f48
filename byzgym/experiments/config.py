"""What a comparison is: its arguments, and what follows from them."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Annotated, Any

import tyro

from byzgym import specs
from byzgym.aggregation.registry import label, normalised
from byzgym.attacks.registry import registry as attack_registry
from byzgym.simulation.config import RunConfig, byzantine_bounds, is_fault
from byzgym.validation import check_int

DEFAULT_POLICIES = ("mean", "krum", "median", "geometric_median", "faba", "gaa", "trust", "set", "oracle")
DEFAULT_ATTACKS = ("gaussian", "sign_flip", "ipm", "alie")

_SEVEN_TENTHS = tyro.conf.arg(help_behavior_hint="(default: seven tenths of the workers)")


@dataclass(frozen=True, kw_only=True)
class Comparison(RunConfig):
    """Policies times attacks times numbers of Byzantine workers times seeds.

    In Python a single policy, attack or number needs no list around it, and a mapping with a "name" may stand
    for "name:key=value". Names are kept as text, as the files of a comparison hold them.

    Raises:
        ValueError: If a value is not allowed, or a name is given twice.
        TypeError: If an object is given where a name is needed.
    """

    policies: tuple[str, ...] = DEFAULT_POLICIES
    """Rules and other agents, such as mean, krum, `nnm+krum`, `gaa:window=1`, and oracle, the reference."""
    attacks: tuple[str, ...] = DEFAULT_ATTACKS
    """Attacks, such as sign_flip or `ipm:epsilon=1.0`."""
    num_byzantine: Annotated[tuple[int, ...], _SEVEN_TENTHS] = ()
    """Numbers f of Byzantine workers, from 0 to n - 1."""
    rounds: int = 600
    """Rounds per run."""
    seeds: int = 5
    """Number of seeds; every policy and attack gets the same ones."""
    first_seed: int = 0
    """The seeds are this one and those that follow it."""
    evaluate_every: int | None = None
    """Rounds between points of the curves; None is a thirtieth of the rounds."""

    def __post_init__(self) -> None:
        check_int("seeds", self.seeds, low=1)
        check_int("first_seed", self.first_seed, low=0, high=2**63 - self.seeds)
        check_int("rounds", self.rounds, low=1)
        check_int("num_workers", self.num_workers, low=1)
        if self.evaluate_every is not None:
            check_int("evaluate_every", self.evaluate_every, low=1)
        numbers = _as_tuple(self.num_byzantine) or _default_numbers(self.num_workers)
        for number in numbers:
            check_int("num_byzantine", number, low=0, high=self.num_workers - 1)
        lists: dict[str, tuple[Any, ...]] = {"num_byzantine": numbers}
        for name in ("policies", "attacks"):
            text = _policy if name == "policies" else partial(_text, name)
            lists[name] = tuple(text(spec) for spec in _as_tuple(getattr(self, name)))
        for name, values in lists.items():
            if not values:
                raise ValueError(f"{name} must not be empty")
            if twice := sorted({str(value) for value in values if values.count(value) > 1}):
                raise ValueError(f"{name} must not repeat {', '.join(twice)}")
        names = ("task", "roles", "partition", "qv_source")
        for name, value in (lists | {name: _text(name, getattr(self, name)) for name in names}).items():
            object.__setattr__(self, name, value)

    @property
    def measured(self) -> str:
        """What accuracies are, as captions begin: "Test accuracy in %"."""
        return f"{measured(self.task)} in %".capitalize()

    @property
    def interval(self) -> int:
        """Rounds between points of the curves."""
        return self.evaluate_every or max(1, self.rounds // 30)

    def runs(self) -> Iterator[tuple[str, int, str, int]]:
        """Policy, number of Byzantine workers, attack and seed of every run, in the order of playing."""
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        for f, policy, attack, seed in product(self.num_byzantine, self.policies, self.attacks, seeds):
            yield policy, f, attack, seed


def measured(task: Any) -> str:
    """What accuracies of a task are measured on.

    >>> measured("digits"), measured("validation:digits")
    ('test accuracy', 'validation accuracy')
    """
    return "validation accuracy" if specs.parse(str(task))["name"] == "validation" else "test accuracy"


def corrupts_transmissions(attack: str) -> bool | None:
    """Whether an attack is a fault in transmission, under which no worker is Byzantine.

    None of one that is not registered, as when results with somebody's own attack are read.
    """
    known = specs.parse(attack)["name"] in attack_registry.names()
    return is_fault(attack_registry.make_from(attack)) if known else None


def arguments(config: Any, kind: type[Any]) -> dict[str, Any]:
    """The values of the fields of the class ``kind``."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(kind)}


def options(config: Any, kind: type[Any]) -> list[str]:
    """Command-line options for the fields of the class ``kind``, without those at their defaults."""
    words = []
    for field in dataclasses.fields(kind):
        value = getattr(config, field.name)
        if value not in (field.default, _default_numbers(config.num_workers)):
            words.append("--" + field.name.replace("_", "-"))
            words += map(str, value) if isinstance(value, tuple) else [str(value)]
    return words


def command(imports: Sequence[str], *words: str) -> str:
    """A command line of byzgym that imports the user's modules first."""
    return shlex.join(["byzgym", *(word for name in imports for word in ("--import", name)), *words])


def _default_numbers(num_workers: int) -> tuple[int]:
    return (byzantine_bounds(None, num_workers)[0],)


def _text(name: str, spec: Any) -> str:
    """A spec as the one text that says the same."""
    if isinstance(spec, str):
        return specs.canonical(spec)
    if isinstance(spec, Mapping) and "name" in spec:
        return specs.label(spec)
    kind = type(spec).__name__
    raise TypeError(f"{name}: a comparison takes names, got {kind}; register yours and give its name")


def _policy(spec: Any) -> str:
    """`_text` of a policy, which pre-aggregators may precede."""
    normal = normalised(spec)
    return label(normal) if isinstance(normal, Mapping) and "pre" in normal else _text("policies", spec)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    """Several values as a tuple, a single one as a tuple of one."""
    several = isinstance(value, Iterable) and not isinstance(value, str | Mapping)
    return tuple(value) if several else (value,)
