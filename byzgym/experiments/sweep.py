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

import tomllib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

from byzgym.experiments import identity
from byzgym.experiments.config import Comparison
from byzgym.validation import shown, unknown, within

_FIELDS = tuple(field.name for field in fields(Comparison))


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


def named(comparisons: list[Comparison]) -> list[str]:
    """What tells each comparison from the others, such as "batch_size=16, partition=iid".

    Example:
        >>> named([Comparison(qv_size=size, rounds=10) for size in (5, 20)])
        ['qv_size=5', 'qv_size=20']
    """
    values = {name: [getattr(one, name) for one in comparisons] for name in _FIELDS}
    differing = [name for name, all_ in values.items() if any(value != all_[0] for value in all_)]
    return [", ".join(f"{name}={_text(getattr(one, name))}" for name in differing) for one in comparisons]


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


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
