"""The files of a results folder: results.csv, curves.csv and config.json."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pandas as pd

from byzgym.experiments.comparison import Comparison
from byzgym.experiments.policies import Told, is_reference

RESULT_COLUMNS = (
    "task",
    "model",
    "policy",
    "attack",
    "roles",
    "partition",
    "num_workers",
    "num_byzantine",
    "seed",
    "rounds",
    "accuracy",
    "qv_loss",
    "byzantine_credit",
    "detection_auc",
    "diverged",
    "seconds",
    "version",
)
CURVE_COLUMNS = ("policy", "attack", "num_byzantine", "seed", "round", "accuracy", "qv_loss")

_TEXT = {"task", "model", "policy", "attack", "roles", "partition", "version"}
_MAY_BE_BLANK = {"byzantine_credit", "detection_auc"}
_TABLES = ("results.csv", "curves.csv", "config.json")
_FILES = (*_TABLES, "overview.png", "report.html", "report.md")
_FIGURES = ("accuracy_f*.png", "final_f*.png", "credits_f*.png")


@dataclass
class Records:
    """All that a report needs.

    Attributes:
        comparison: What was played.
        told: Rules that were told a smaller f than the true one.
        references: Policies that see more than a server would.
        versions: Of byzgym and what it stands on.
        results: One row a run, `RESULT_COLUMNS`.
        curves: One row an evaluation, `CURVE_COLUMNS`.
    """

    comparison: Comparison
    told: list[Told]
    references: list[str]
    versions: dict[str, str]
    results: pd.DataFrame
    curves: pd.DataFrame

    @classmethod
    def begin(cls, comparison: Comparison, told: Sequence[Told]) -> Records:
        """Records of a comparison of which nothing has been played yet."""
        return cls(
            comparison=comparison,
            told=list(told),
            references=[policy for policy in comparison.policies if is_reference(policy)],
            versions=versions(),
            results=pd.DataFrame(columns=list(RESULT_COLUMNS)),
            curves=pd.DataFrame(columns=list(CURVE_COLUMNS)),
        )

    def add(self, results: Sequence[dict[str, Any]], curves: Sequence[dict[str, Any]]) -> None:
        """Append rows."""
        self.results = _appended(self.results, results, RESULT_COLUMNS)
        self.curves = _appended(self.curves, curves, CURVE_COLUMNS)

    def write(self, folder: Path) -> None:
        """Write the three files, all of them whole or none."""
        config = {
            "arguments": self.comparison.to_json(),
            "told": [dataclasses.asdict(entry) for entry in self.told],
            "references": self.references,
            "versions": self.versions,
        }
        write_texts(
            {
                folder / "config.json": json.dumps(config, indent=2) + "\n",
                folder / "results.csv": self.results.to_csv(index=False, lineterminator="\n"),
                folder / "curves.csv": self.curves.to_csv(index=False, lineterminator="\n"),
            }
        )

    @classmethod
    def read(cls, folder: Path) -> Records:
        """Read what `write` wrote.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file does not hold what it should.
        """
        config = _read_config(folder / "config.json")
        results = _read_table(folder / "results.csv", RESULT_COLUMNS)
        curves = _read_table(folder / "curves.csv", CURVE_COLUMNS)
        results["diverged"] = results["diverged"].astype(str) == "True"
        try:
            return cls(
                comparison=Comparison.from_json(config["arguments"]),
                told=[Told(**entry) for entry in config["told"]],
                references=[str(policy) for policy in config["references"]],
                versions=dict(config["versions"]),
                results=results,
                curves=curves,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{folder / 'config.json'} is not the configuration of results: {error}"
            ) from None


def versions() -> dict[str, str]:
    """Versions that results depend on."""
    import byzgym

    others = {name: version(name) for name in ("torch", "numpy", "gymnasium")}
    return {"byzgym": byzgym.__version__, **others, "python": platform.python_version()}


def claim(folder: Path, overwrite: bool) -> None:
    """Check that results may be written into ``folder``; nothing is changed.

    Raises:
        FileExistsError: If it is a file, or holds results and ``overwrite`` is False.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"out must be a folder, but {folder} is a file")
    if _held(folder) and not overwrite:
        raise FileExistsError(
            f"{folder} already holds results; choose another folder (--out) or replace them (--overwrite)"
        )


def prepare(folder: Path) -> None:
    """Make the folder, where there is none.

    Raises:
        OSError: If the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder):
        pass


def discard_drawings(folder: Path) -> None:
    """Remove figures and reports, which are of earlier results, and nothing else, from a folder."""
    for path in _held(folder):
        if path.name not in _TABLES:
            path.unlink()


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write files that are never seen half written, nor some of them without the others if writing fails."""
    beside = {path: path.with_name(path.name + ".partial") for path in texts}
    try:
        for path, text in texts.items():
            beside[path].write_text(text, encoding="utf-8")
    except OSError:
        for partial in beside.values():
            if partial.is_file():
                partial.unlink()
        raise
    for path, partial in beside.items():
        os.replace(partial, path)


def _held(folder: Path) -> list[Path]:
    fixed = [folder / name for name in _FILES if (folder / name).is_file()]
    return fixed + [path for pattern in _FIGURES for path in sorted(folder.glob(pattern))]


def _appended(table: pd.DataFrame, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    new = pd.DataFrame(list(rows), columns=list(columns))
    return new if table.empty else pd.concat([table, new], ignore_index=True)


def _read_config(path: Path) -> dict[str, Any]:
    _check_there(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not the configuration of results")
    return config


def _read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    _check_there(path)
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(_TEXT, str), keep_default_na=False, na_values=[""])
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV file of results: {error}") from None
    if tuple(table.columns) != tuple(columns):
        raise ValueError(f"{path} must have the columns {','.join(columns)}, got {','.join(table.columns)}")
    if table.empty:
        raise ValueError(f"{path} holds no rows")
    for column in columns:
        if column not in _TEXT and column != "diverged":
            table[column] = _numbers(path, table[column])
        if table[column].isna().any() and column not in _MAY_BE_BLANK:
            raise ValueError(f"{path} has blank entries in the column {column}")
    return table


def _numbers(path: Path, column: pd.Series[Any]) -> pd.Series[Any]:
    try:
        return pd.to_numeric(column)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} must hold numbers in the column {column.name}: {error}") from None


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no results: {path.name} is missing")
