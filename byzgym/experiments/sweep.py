"""Grids of settings in a TOML file, for `byzgym sweep`.

The keys of the file are the fields of `Comparison`. The table [grid] gives any of them several values, and
each combination of these is a setting::

    task = "digits"
    policies = ["krum", "gaa", "oracle"]
    rounds = 300

    [grid]
    batch_size = [16, 32]
    partition = ["iid", "dirichlet:alpha=0.1"]
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

from byzgym.experiments import identity
from byzgym.experiments.config import Comparison
from byzgym.simulation.config import RunConfig
from byzgym.validation import shown, unknown, within

_FIELDS = tuple(field.name for field in fields(Comparison))
_SETTING = (*(field.name for field in fields(RunConfig)), "evaluate_every")
"""The fields that make a setting; more policies, attacks, f and seeds belong to the same one."""
_LONGEST = 80  # letters of a folder's name, less what tells it from others that begin alike


def read(path: str | Path) -> list[Comparison]:
    """The comparisons of a file, one for each setting.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no TOML, or a key or a value is not allowed; the message names file, key, value
            and what is allowed.
        TypeError: If a value is of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    with within(str(path)):
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"it must be a TOML file: {error}") from None
        grid = given.pop("grid", {})
        _check(given, grid)
        names = list(grid)
        return [
            _comparison(given, dict(zip(names, values, strict=True))) for values in product(*grid.values())
        ]


def named(comparisons: Sequence[Comparison]) -> list[str]:
    """What tells each setting from the others, such as "batch_size=16, partition=iid".

    Example:
        >>> named([Comparison(qv_size=size, rounds=10) for size in (5, 20)])
        ['qv_size=5', 'qv_size=20']
    """
    values = {name: [getattr(one, name) for one in comparisons] for name in _SETTING}
    differing = [name for name, all_ in values.items() if any(value != all_[0] for value in all_)]
    return [", ".join(f"{name}={_text(getattr(one, name))}" for name in differing) for one in comparisons]


def folder(comparison: Comparison) -> str:
    """The name of the folder for the report of a setting: its options that are not the defaults.

    It follows from the setting alone, whatever else a store holds. Every file system takes it; where not all
    of it can be kept, six digits at the end tell it from others.

    Example:
        >>> folder(Comparison(batch_size=16, partition="dirichlet:alpha=0.1"))
        'partition=dirichlet-alpha=0.1,batch_size=16'
        >>> folder(Comparison()), folder(Comparison(task="csv:path=a/b.csv,label=c"))
        ('default', 'task=csv-path=a-b.csv,label=c-dc8481')
    """
    chosen = {field.name: field.default for field in fields(Comparison) if field.name in _SETTING}
    given = {name: getattr(comparison, name) for name in chosen}
    whole = ",".join(f"{name}={_text(value)}" for name, value in given.items() if value != chosen[name])
    kept = re.sub(r"[^\w=,.+-]+", "-", whole)
    if len(kept) <= _LONGEST and kept.replace("-", ":") == whole and kept == kept.lower():
        return kept or "default"
    return f"{kept[:_LONGEST].strip('-')}-{hashlib.sha256(whole.encode()).hexdigest()[:6]}"


def _text(value: Any) -> str:
    """A value as names of settings have it.

    >>> _text({"initial": 0.1, "schedule": "cosine"})
    '{initial=0.1 schedule=cosine}'
    """
    if isinstance(value, Mapping):
        return f"{{{' '.join(f'{key}={_text(held)}' for key, held in value.items())}}}"
    return str(value)


def _check(given: Mapping[str, Any], grid: Any) -> None:
    if not isinstance(grid, Mapping):
        raise ValueError(f"grid must be a table [grid], got {shown(grid)}")
    for name in given:
        if name not in _FIELDS:
            raise unknown("key", name, [*_FIELDS, "grid"])
    for name, values in grid.items():
        if name not in _FIELDS:
            raise unknown("key of [grid]", name, _FIELDS)
        if name in given:
            raise ValueError(f"{name} must be given once, got it above [grid] and in it")
        if not isinstance(values, list) or not values:
            raise ValueError(f"grid.{name} must be a list of at least one value, got {shown(values)}")
        if any(value in values[:number] for number, value in enumerate(values)):
            raise ValueError(f"grid.{name} must not repeat a value, got {shown(values)}")


def _comparison(given: Mapping[str, Any], chosen: Mapping[str, Any]) -> Comparison:
    where = ", ".join(f"{name}={shown(value)}" for name, value in chosen.items())
    with within(f"[grid] {where}") if where else nullcontext():
        comparison = Comparison(**given, **chosen)
        identity.setting(comparison)  # also the simulation's own checks
    return comparison
