"""What `byzgym compare` and `byzgym sweep` have in common: play what is missing, and show it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from byzgym import tracking
from byzgym.cli.terminal import FailedRunsError, InputError, Terminal, mistakes
from byzgym.experiments.config import Comparison, command
from byzgym.validation import check_int

if TYPE_CHECKING:
    from byzgym.experiments.results import Results

_EVERY = 30.0  # seconds between two lines where the output is no terminal


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How figures look."""

    highlight: tuple[str, ...] = ()
    """Policies in colour, all others grey; none for colours everywhere."""
    formats: tuple[Literal["png", "pdf", "svg"], ...] = ("png",)
    """Formats of the figures' files: png, pdf, svg, or several of them."""


@dataclass(frozen=True, kw_only=True)
class Playing:
    """Where runs go, and who plays them."""

    out: Path = Path("byzgym-results")
    """Folder for runs.sqlite, which holds every run, the figures and the report. The same command again goes
    on where it stopped."""
    overwrite: bool = False
    """Forget all runs that the folder holds."""
    engine: Literal["processes", "ray"] = "processes"
    """Who plays: processes on this machine, or a Ray cluster."""
    processes: int | None = None
    """Processes on this machine; None is one for each core, and one for a GPU. With 1 everything is played in
    this one."""
    address: str | None = None
    """Of the Ray cluster; None is one on this machine, for the time of playing."""


@dataclass(frozen=True, kw_only=True)
class Tracked(Playing, Shape):
    """The same, with figures, and who else is told of the runs."""

    track: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Where finished runs are logged, too: files for TensorBoard in the folder, Weights & Biases, MLflow."""


def play(playing: Tracked, comparisons: Sequence[Comparison], terminal: Terminal) -> None:
    """Play what is missing of comparisons, then tabulate, draw and report what the folder holds of them."""
    from byzgym.experiments.grid import Grid, engine_for
    from byzgym.experiments.reading import read_all

    def written(rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            tracking.log_run(trackers, row)

    with mistakes():
        processes = playing.processes
        if processes is not None:
            check_int("processes", processes, low=1)
        elif any(comparison.device != "cpu" for comparison in comparisons):
            processes = 1
        engine = engine_for(playing.engine, processes, playing.address, terminal.imports)
        _check_highlight(playing, comparisons)
        grid = Grid.plan(comparisons, playing.out, terminal.imports)
        trackers = tracking.make(playing.track, playing.out, complain)
    finished = 0
    try:
        with mistakes(), grid.open(playing.overwrite) as store:
            total = sum(task.unit.rounds for task in grid.tasks)
            left = sum(task.unit.rounds for task in grid.tasks if task.left(store))
            with terminal.progress(total, total - left, every=_EVERY) as advance:
                grid.play(store, engine, advance, written)
            finished = len(store)
            failed = any(task.left(store) for task in grid.tasks)
            found = [results for results in read_all(store) if results.setting in grid.settings]
        show(found, playing.out, terminal, playing)
        if failed:  # as `show` has said
            raise FailedRunsError
    except KeyboardInterrupt:
        print(f"byzgym: interrupted; {_left(playing.out, terminal, finished)}", file=sys.stderr)
        raise


def complain(problem: str) -> None:
    """Say a line on the standard error."""
    print(f"byzgym: {problem}", file=sys.stderr)


def show(found: Sequence[Results], folder: Path, terminal: Terminal, shape: Shape) -> None:
    """Print the tables of every setting, and write its report: into the folder, or one of its own below."""
    from byzgym.experiments import report, threat_model
    from byzgym.experiments.drawings import make_room
    from byzgym.experiments.store import NAME
    from byzgym.experiments.sweep import folder as folder_of
    from byzgym.experiments.sweep import named

    with mistakes():
        _check_highlight(shape, [results.comparison for results in found])
    names = named([results.comparison for results in found])
    places = ["."] if len(found) == 1 else [folder_of(results.comparison) for results in found]
    written = []
    for results, name, below in zip(found, names, places, strict=True):
        place = folder / below
        if results.unfinished:
            print(f"byzgym: unfinished: {results.unfinished}", file=sys.stderr)
            for error, runs in results.failed.groupby("error", sort=False):
                print(f"byzgym: {len(runs)} failed: {error}", file=sys.stderr)
        if results.runs.empty:
            continue
        try:
            with mistakes(OSError):
                make_room(place)  # also of other attacks, f or formats
                paths = report.write(results, place, shape.highlight, shape.formats)
                paths += threat_model.write(results.threat_models, place)
                written += [path.relative_to(folder) for path in paths]
        finally:  # the files are there also where nobody reads this, and this where files cannot be written
            if len(found) > 1:
                terminal.print(f"\n{name}")
            report.show(results, terminal.console)
    if not written:
        raise InputError(f"{folder} holds no finished runs yet")
    if len(found) > 1:
        with mistakes(OSError):
            make_room(folder)
            files = report.write_sweep(found, names, places, folder, shape.formats)
        written = [path.relative_to(folder) for path in files] + written
    terminal.print(f"\n{folder}: {NAME}, {', '.join(map(str, written))}")


def _check_highlight(shape: Shape, comparisons: Sequence[Comparison]) -> None:
    from byzgym.experiments.figures.style import check_highlight

    check_highlight(shape.highlight, dict.fromkeys(name for one in comparisons for name in one.policies))


def _left(folder: Path, terminal: Terminal, finished: int) -> str:
    from byzgym.experiments.store import NAME, Store

    if not finished and (folder / NAME).is_file():
        with Store(folder) as store:
            finished = len(store)
    if not finished:
        return "nothing was finished"
    shows = command(terminal.imports, "report", str(folder))
    return f"what was finished is in {folder}, and `{shows}` shows it; the same command goes on"
