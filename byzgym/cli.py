"""The command line: `byzgym list | compare | train | evaluate | report | bench`.

What takes long to import (pandas, matplotlib, scikit-learn, stable-baselines3) is imported by the command
that needs it, so that help and lists come quickly.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from byzgym.experiments.comparison import Comparison
from byzgym.experiments.episodes import Evaluate, Train
from byzgym.experiments.terminal import (
    InputError,
    mistakes,
    plain_console,
    progress,
    replace_unknown_characters,
)

Kind = Literal["tasks", "models", "partitions", "qv-sources", "attacks", "roles", "rules", "agents"]


@dataclass(frozen=True, kw_only=True)
class Compare(Comparison):
    """Compare policies under attacks: a table, results.csv, figures and a report.

    Names may carry parameters: `ipm:epsilon=1.0`, `gaa:window=1`, `dirichlet:alpha=0.1`. Without
    arguments the classical rules, GAA and the oracle meet four attacks by 7 of 10 workers on the digits.
    """

    out: Path = Path("byzgym-results")
    """Folder for results.csv, curves.csv, config.json, the figures and the report."""
    overwrite: bool = False
    """Replace results that the folder holds."""

    def __post_init__(self) -> None:
        """Leave the checks to `run`, which tells their errors in one line."""

    def run(self, console: Console) -> None:
        """Play, tabulate, draw and report."""
        from byzgym.experiments import report, tables
        from byzgym.experiments.compare import begin, play

        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(Comparison)}
        with mistakes():
            comparison = Comparison(**values)
            records = begin(comparison, self.out, self.overwrite)
        batches = len(comparison.policies) * len(comparison.num_byzantine)
        try:
            with progress(console, batches * comparison.rounds) as advance, mistakes(OSError):
                play(records, self.out, advance)
        except KeyboardInterrupt:
            finished = f"what was finished is in {self.out}, and {_report(self.out)} shows it"
            if records.results.empty:
                finished = f"before the first policy was finished; nothing in {self.out} has changed"
            _interrupted(finished)
            raise
        with _drawing(self.out):
            files = report.write(records, self.out)
        tables.show(records, console)
        console.print(f"\n{self.out}: results.csv, curves.csv, {', '.join(path.name for path in files)}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Make the figures and the report again from the files of `byzgym compare`."""

    folder: tyro.conf.Positional[Path]
    """The folder with results.csv, curves.csv and config.json."""

    def run(self, console: Console) -> None:
        """Read, tabulate, draw and report."""
        from byzgym.experiments import report, tables
        from byzgym.experiments.records import Records

        with mistakes():
            records = Records.read(self.folder)
        with _drawing(self.folder):
            files = report.write(records, self.folder)
        tables.show(records, console)
        console.print(f"\n{self.folder}: {', '.join(path.name for path in files)}")


@dataclass(frozen=True, kw_only=True)
class List:
    """List what has a name, with its parameters."""

    kind: tyro.conf.Positional[Kind | None] = None
    """One kind only."""

    def run(self, console: Console) -> None:
        """Print the tables."""
        from byzgym.experiments import listing

        listing.show(self.kind, console)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure speed in a few seconds: steps per second, and a round beside a plain training step."""

    num_envs: int = 64
    """Environments side by side, at least 1."""

    def run(self, console: Console) -> None:
        """Measure and tabulate."""
        import torch
        from rich import box
        from rich.table import Table

        from byzgym.experiments import bench

        with mistakes():
            measured = [*bench.environment_speed(self.num_envs), *bench.round_speed()]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("what", "speed", "in comparison"):
            table.add_column(heading, justify="right" if heading == "speed" else "left")
        for line in measured:
            table.add_row(line.what, line.value, line.ratio)
        console.print(table)
        console.print(f"{torch.get_num_threads()} threads, torch {torch.__version__}", highlight=False)


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Those of the command line where None.

    Returns:
        The exit status: 0, 1 where nobody reads the output to its end, 2 for a mistake of the user, 130 where
        interrupted.
    """
    replace_unknown_characters()
    try:
        command: Any = tyro.cli(
            Command,
            prog="byzgym",
            description="Byzantine-robust gradient aggregation: compare, train and evaluate policies.",
            args=None if arguments is None else list(arguments),
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
        )
        command.run(plain_console())
    except InputError as error:
        print(f"byzgym: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it ends
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


@contextmanager
def _drawing(folder: Path) -> Iterator[None]:
    """Tell what is there where the figures and the report are interrupted or cannot be written."""
    try:
        with mistakes(OSError):
            yield
    except KeyboardInterrupt:
        _interrupted(f"the results in {folder} are complete, and {_report(folder)} draws the figures")
        raise


def _interrupted(what: str) -> None:
    print(f"byzgym: interrupted; {what}", file=sys.stderr)


def _report(folder: Path) -> str:
    return f"`byzgym report {shlex.quote(str(folder))}`"


if __name__ == "__main__":
    sys.exit(main())
