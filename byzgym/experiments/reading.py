"""Reading the files of a results folder; somebody may have edited them, so errors name the place."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from byzgym.experiments.comparison import Comparison, check_kind
from byzgym.experiments.policies import Told

_TEXT = {"task", "model", "policy", "attack", "roles", "partition", "version"}
_MAY_BE_BLANK = {"byzantine_credit", "detection_auc"}
_WHOLE = {"num_workers", "num_byzantine", "seed", "rounds", "round"}
_ARGUMENTS = {"policy": "policies", "attack": "attacks", "num_byzantine": "num_byzantine"}
_TOLD: dict[str, type[Any]] = {"policy": str, "num_byzantine": int, "told": int, "condition": str}


def read_config(path: Path) -> tuple[Comparison, list[Told], list[str], dict[str, str]]:
    """Arguments, rules that were told less, references and versions.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it does not hold what it should.
    """
    _check_there(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    try:
        arguments = _entry(config, "arguments", dict)
        told, references = _entry(config, "told", list), _entry(config, "references", list)
        versions = _entry(config, "versions", dict)
        check_kind("references", references, tuple[str, ...])
        for name, number in versions.items():
            check_kind(f"versions {name}", number, str)
        return Comparison.from_json(arguments), [_told(entry) for entry in told], references, versions
    except ValueError as error:
        raise ValueError(f"{path} is not the configuration of results: {error}") from None


def read_table(
    path: Path, columns: Sequence[str], comparison: Comparison, run: Sequence[str]
) -> pd.DataFrame:
    """A table of what was played.

    Args:
        path: A CSV file.
        columns: Those that it must have.
        comparison: What may have been played.
        run: The columns that tell one row from every other.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it does not hold what it should.
    """
    _check_there(path)
    try:
        as_text = dict.fromkeys((*_TEXT, "diverged"), str)
        table = pd.read_csv(path, dtype=as_text, keep_default_na=False, na_values=[""])
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV file of results: {error}") from None
    if tuple(table.columns) != tuple(columns):
        raise ValueError(f"{path} must have the columns {','.join(columns)}, got {','.join(table.columns)}")
    if table.empty:
        raise ValueError(f"{path} holds no rows")
    for column in columns:
        if column not in _MAY_BE_BLANK and table[column].isna().any():
            raise ValueError(f"{path} has blank entries in the column {column}")
        if column == "diverged":
            texts = table[column].str.lower()  # spreadsheets write TRUE
            _check(path, table[column], texts.isin(["true", "false"]), "be True or False")
            table[column] = texts == "true"
        elif column not in _TEXT:
            table[column] = _numbers(path, table[column])
    _check_rows(path, table, comparison, run)
    return table


def _check_rows(path: Path, table: pd.DataFrame, comparison: Comparison, run: Sequence[str]) -> None:
    """Check that every row is of the comparison, and there once."""
    ranges = {"accuracy": (0, 1), "seed": (0, comparison.seeds - 1), "round": (0, comparison.rounds)}
    for column, (low, high) in ranges.items():
        if column in table:
            within = table[column].between(low, high)
            _check(path, table[column], within, f"be a number from {low} to {high}")
    for column in ("policy", "attack", "num_byzantine"):
        known = getattr(comparison, _ARGUMENTS[column])
        what = f"be one of those in config.json, {', '.join(map(str, known))}"
        _check(path, table[column], table[column].isin(list(known)), what)
    twice = table.duplicated(list(run))
    if twice.any():
        row = int(twice.to_numpy().argmax())
        values = ", ".join(f"{column} {table[column][row]}" for column in run)
        raise ValueError(f"{path}, line {row + 2}: a run must not stand there twice, got {values} again")


def _check(path: Path, column: pd.Series[Any], allowed: pd.Series[bool], what: str) -> None:
    """Name the first entry of a column that is not allowed."""
    if not allowed.all():
        row = int(allowed.to_numpy().argmin())
        raise ValueError(f"{path}, line {row + 2}: {column.name} must {what}, got {column[row]}")


def _numbers(path: Path, column: pd.Series[Any]) -> pd.Series[Any]:
    """The column as finite numbers, whole ones where counts stand."""
    try:
        numbers = pd.to_numeric(column)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} must hold numbers in the column {column.name}: {error}") from None
    _check(path, numbers, ~numbers.isin([math.inf, -math.inf]), "be a finite number")
    if column.name in _WHOLE:
        _check(path, numbers, numbers % 1 == 0, "be a whole number")
    return numbers


def _entry(config: Any, key: str, kind: type[Any]) -> Any:
    shown: dict[type[Any], str] = {dict: "an object", list: "a list"}
    if not isinstance(config, dict) or key not in config:
        raise ValueError(f"{key} is missing")
    if not isinstance(config[key], kind):
        raise ValueError(f"{key} must be {shown[kind]}, got {config[key]!r}")
    return config[key]


def _told(entry: Any) -> Told:
    if not isinstance(entry, dict) or set(entry) != set(_TOLD):
        raise ValueError(f"an entry of told must be an object with {', '.join(_TOLD)}, got {entry!r}")
    for key, kind in _TOLD.items():
        check_kind(f"told {key}", entry[key], kind)
    return Told(**entry)


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no results: {path.name} is missing")
