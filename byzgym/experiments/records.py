"""The files of a results folder: results.csv, curves.csv and config.json."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from byzgym.experiments.comparison import Comparison
from byzgym.experiments.files import check_files, check_folder, write_texts
from byzgym.experiments.policies import Told, is_reference
from byzgym.experiments.reading import read_config, read_table

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

_TABLES = ("results.csv", "curves.csv", "config.json")
_FILES = (*_TABLES, "overview.png", "report.html", "report.md")
_KINDS = ("accuracy", "final", "credits")  # of figures, each of them drawn for every f
_FIGURE = re.compile(rf"({'|'.join(_KINDS)})_f\d+\.png", re.ASCII)


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
        comparison, told, references, versions = read_config(folder / "config.json")
        run = ("policy", "attack", "num_byzantine", "seed")
        results = read_table(folder / "results.csv", RESULT_COLUMNS, comparison, run)
        curves = read_table(folder / "curves.csv", CURVE_COLUMNS, comparison, (*run, "round"))
        return cls(comparison, told, references, versions, results, curves)


def versions() -> dict[str, str]:
    """Versions that results depend on."""
    import byzgym

    others = {name: version(name) for name in ("torch", "numpy", "gymnasium")}
    return {"byzgym": byzgym.__version__, **others, "python": platform.python_version()}


def claim(folder: Path, comparison: Comparison, overwrite: bool) -> None:
    """Check that results may be written into ``folder``; nothing is changed.

    Raises:
        FileExistsError: If it is a file, or holds what would be replaced and ``overwrite`` is False.
        IsADirectoryError: If there is a folder where a file is to be written.
    """
    check_folder(folder)
    figures = [f"{kind}_f{f}.png" for kind in _KINDS for f in comparison.num_byzantine]
    check_files(folder / name for name in (*_FILES, *figures))
    if overwrite:
        return
    held = _held(folder)
    choices = "choose another folder (--out) or replace them (--overwrite)"
    if any(path.name in _TABLES for path in held):
        raise FileExistsError(f"{folder} already holds results; {choices}")
    if held:
        names = ", ".join(path.name for path in held)
        raise FileExistsError(f"{folder} holds no results, but files named as theirs, {names}; {choices}")


def discard_drawings(folder: Path) -> None:
    """Remove figures and reports, which are of earlier results, and nothing else, from a folder."""
    for path in _held(folder):
        if path.name not in _TABLES:
            path.unlink()


def _held(folder: Path) -> list[Path]:
    """The files with names that byzgym gives: the fixed ones and the figures of each f."""
    fixed = [folder / name for name in _FILES if (folder / name).is_file()]
    figures = [path for path in folder.glob("*.png") if _FIGURE.fullmatch(path.name) and path.is_file()]
    return fixed + sorted(figures)


def _appended(table: pd.DataFrame, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    new = pd.DataFrame(list(rows), columns=list(columns))
    return new if table.empty else pd.concat([table, new], ignore_index=True)
