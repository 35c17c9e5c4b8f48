"""A grid of 200 cells on two processes beside one, and the default comparison beside another checkout.

    python benchmarks/sweep.py
    python benchmarks/sweep.py --num-byzantine 7
    python benchmarks/sweep.py --against ../byzgym-of-yesterday

The grid: ten policies, four attacks, 1, 3, 5, 7 and 9 of 10 workers Byzantine, five seeds in each of the 200
cells, 300 rounds on the digits. A command takes some ten seconds to start and to draw its report, which two
processes do not share, so small grids gain less. `--against` times `byzgym compare` of this checkout with its
default (a process for each core) beside that of another one. Whole commands are timed, from the start of
Python to the report, in turns, each in a new folder. Compare ratios: times are those of your machine, which
must do nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import tyro
from _timing import medians, print_versions, verdict
from rich.console import Console
from rich.table import Table

from byzgym.experiments.config import DEFAULT_POLICIES

HERE = Path(__file__).parents[1]
POLICIES = [*DEFAULT_POLICIES, "trimmed_mean"]
FASTER = 1.7  # times, on two processes
NO_SLOWER = 1.0  # times the other checkout


def main(
    rounds: int = 300,
    num_byzantine: tuple[int, ...] = (1, 3, 5, 7, 9),
    repeats: int = 1,
    against: Path | None = None,
) -> None:
    """Time whole commands.

    Args:
        rounds: Rounds of each run.
        num_byzantine: Numbers of Byzantine workers in the grid.
        repeats: Turns of each; the medians are shown, and one more turn before them is a warm-up.
        against: A checkout of byzgym whose default comparison is timed beside this one's.
    """
    console = Console()
    print_versions(console)
    table = Table("what", "seconds", "beside", "seconds", "ratio", "target", "reached")
    if against is None:
        numbers = [str(f) for f in num_byzantine]
        grid = ["compare", "--policies", *POLICIES, "--rounds", str(rounds), "--num-byzantine", *numbers]
        seconds = medians({n: command(HERE, *grid, "--processes", n) for n in ("1", "2")}, repeats)
        ratio, target = seconds["1"] / seconds["2"], f"at least {FASTER}"
        names, reached = ("the grid, two processes", "one"), ratio >= FASTER
        new, old = seconds["2"], seconds["1"]
    else:
        default = ["compare", "--rounds", str(rounds)]
        seconds = medians({"new": command(HERE, *default), "old": command(against, *default)}, repeats)
        new, old = seconds["new"], seconds["old"]
        ratio, target = new / old, f"at most {NO_SLOWER}"
        names, reached = ("the default comparison", str(against)), ratio <= NO_SLOWER
    table.add_row(names[0], f"{new:.1f}", names[1], f"{old:.1f}", f"{ratio:.2f}", target, verdict(reached))
    console.print(table)


def command(checkout: Path, *words: str) -> Callable[[], None]:
    """A call that runs a command of byzgym in a checkout, from a new folder."""

    def call() -> None:
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
            line = [sys.executable, "-m", "byzgym", *words, "--out", str(Path(folder) / "out")]
            subprocess.run(line, check=True, env=environment, stdout=subprocess.DEVNULL, cwd=folder)

    return call


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
