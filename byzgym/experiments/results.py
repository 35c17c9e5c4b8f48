"""The files of a results folder: results.csv, curves.csv and config.json."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

import byzgym
from byzgym import files
from byzgym.experiments.config import Comparison, command, options

RUN_COLUMNS: dict[str, type] = {
    **dict.fromkeys(("task", "model", "policy", "attack", "roles", "partition"), str),
    **dict.fromkeys(("num_classes", "num_workers", "num_byzantine", "seed", "rounds"), int),
    **dict.fromkeys(
        ("accuracy", "attack_success_rate", "qv_loss", "byzantine_credit", "detection_auc"), float
    ),
    **{"diverged": bool, "seconds": float, "version": str},
}
"""The columns of results.csv, one row a run."""
CURVE_COLUMNS: dict[str, type] = {
    **{"policy": str, "attack": str, "num_byzantine": int, "seed": int},
    **{"round": int, "accuracy": float, "attack_success_rate": float, "qv_loss": float},
}
"""The columns of curves.csv, one row an evaluation."""
OF_BACKDOORS = "attack_success_rate"
"""The column that is in the files only if there is a backdoor among the attacks."""

_TABLES = ("config.json", "curves.csv", "results.csv")
_DRAWN = re.compile(r"overview\.png|(accuracy|final|profile|credits)_f\d+\.png|report\.(html|md)", re.ASCII)


@dataclass(frozen=True)
class Told:
    """The f that a rule was told, where that is less than the true one."""

    policy: str
    num_byzantine: int  # the true f
    told: int  # the largest f that the rule accepts
    condition: str  # what the rule demands, such as "n >= 2f + 3"
    rule: str = ""  # its name, if it is inside the policy

    def __str__(self) -> str:
        inside = f"{self.rule} is " if self.rule else ""
        condition = f" (needs {self.condition})" if self.condition else ""
        return f"{inside}told f = {self.told}, the largest it accepts{condition}"


def _versions() -> dict[str, str]:
    others = {name: version(name) for name in ("torch", "numpy", "gymnasium")}
    return {"byzgym": byzgym.__version__, **others, "python": platform.python_version()}


@dataclass
class Results:
    """All that a report needs.

    Attributes:
        comparison: What was played.
        runs: One row a run, `RUN_COLUMNS`.
        curves: One row an evaluation, `CURVE_COLUMNS`.
        told: Rules that were told a smaller f than the true one.
        references: Policies that see more than a server would.
        notes: What was otherwise when a policy was trained, one line each.
        versions: Of byzgym and the libraries that results depend on.
        imports: The user's modules that had been imported (`byzgym --import`).
    """

    comparison: Comparison
    runs: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(RUN_COLUMNS)))
    curves: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(CURVE_COLUMNS)))
    told: list[Told] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=_versions)
    imports: Sequence[str] = ()

    def played(self, num_byzantine: int) -> list[str]:
        """The policies with runs at this number of Byzantine workers, references last."""
        found = set(self.runs.loc[self.runs["num_byzantine"] == num_byzantine, "policy"])
        policies = [policy for policy in self.comparison.policies if policy in found]
        return sorted(policies, key=lambda policy: policy in self.references)

    @property
    def played_numbers(self) -> list[int]:
        """The numbers of Byzantine workers with runs."""
        return [f for f in self.comparison.num_byzantine if self.played(f)]

    def label(self, policy: str) -> str:
        """The policy's name as tables and figures show it."""
        return f"{policy} (reference)" if policy in self.references else policy

    def add(self, runs: Sequence[dict[str, Any]], curves: Sequence[dict[str, Any]]) -> None:
        """Append rows."""
        new_runs = pd.DataFrame(list(runs), columns=list(RUN_COLUMNS))
        new_curves = pd.DataFrame(list(curves), columns=list(CURVE_COLUMNS))
        if self.runs.empty:
            self.runs, self.curves = new_runs, new_curves
        else:
            self.runs = pd.concat([self.runs, new_runs], ignore_index=True)
            self.curves = pd.concat([self.curves, new_curves], ignore_index=True)

    @property
    def command(self) -> str:
        """The command line that plays this comparison, without its results folder."""
        return command(self.imports, "compare", *options(self.comparison, Comparison))

    def write(self, folder: Path) -> None:
        """Write the three files: all of them, or none if one cannot be written."""
        config = {
            "arguments": asdict(self.comparison),
            "told": [asdict(entry) for entry in self.told],
            "references": self.references,
            "notes": self.notes,
            "versions": self.versions,
            "imports": self.imports,
        }
        files.write_texts(
            {
                folder / "config.json": json.dumps(config, indent=2) + "\n",
                folder / "results.csv": _csv(self.runs),
                folder / "curves.csv": _csv(self.curves),
            }
        )

    @classmethod
    def read(cls, folder: str | Path) -> Results:
        """Read what `write` wrote.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file is not valid JSON or CSV, or does not hold what it should.
        """
        config, curves, runs = (Path(folder) / name for name in _TABLES)
        for path in (config, curves, runs):
            if not path.is_file():
                raise FileNotFoundError(f"{folder} holds no results: {path.name} is missing")
        tables = _read_table(runs, RUN_COLUMNS), _read_table(curves, CURVE_COLUMNS)
        try:
            held = json.loads(config.read_text(encoding="utf-8"))
            comparison = Comparison(**held.pop("arguments"))
            told = [Told(**entry) for entry in held.pop("told")]
            return cls(comparison, *tables, told=told, **held)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{config} is not the configuration of results: {error}") from None


@contextmanager
def claim(folder: Path, overwrite: bool = False) -> Iterator[None]:
    """Keep the folder to one comparison while the block runs.

    Raises:
        FileExistsError: If the folder holds results and ``overwrite`` is False.
        OSError: If it cannot be written to, or another command is writing to it.
    """
    with files.lock(folder):
        held = _held(folder)
        if held and not overwrite:
            names = ", ".join(path.name for path in held)
            how = "choose another folder (--out) or replace them (--overwrite)"
            raise FileExistsError(f"{folder} already holds results ({names}); {how}")
        yield


def discard_drawings(folder: Path) -> None:
    """Remove the figures and reports of earlier results, and nothing else."""
    for path in _held(folder):
        if path.name not in _TABLES:
            path.unlink()


def _held(folder: Path) -> list[Path]:
    """The files that have names of results, figures or reports."""
    return sorted(path for path in folder.iterdir() if path.name in _TABLES or _DRAWN.fullmatch(path.name))


def _csv(table: pd.DataFrame) -> str:
    shown = table.drop(columns=OF_BACKDOORS) if table[OF_BACKDOORS].isna().all() else table
    return shown.to_csv(index=False, lineterminator="\n")


def _read_table(path: Path, columns: dict[str, type]) -> pd.DataFrame:
    try:
        # Only an empty field is a missing value: an attack is called "none".
        options: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
        table = pd.read_csv(path, dtype=columns, **options)
        missing = [name for name in columns if name not in table and name != OF_BACKDOORS]
        if missing:
            raise ValueError(f"the columns {missing} are missing")
        return table.reindex(columns=list(columns))
    except ValueError as error:
        raise ValueError(f"{path} is not a CSV file of results: {error}") from None
