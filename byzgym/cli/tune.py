"""`byzgym tune`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from byzgym import files, specs
from byzgym.cli.playing import Playing
from byzgym.cli.terminal import InputError, Terminal, mistakes
from byzgym.experiments.config import DEFAULT_ATTACKS, Comparison, arguments, command, options
from byzgym.validation import check_int

if TYPE_CHECKING:
    from byzgym.experiments.tuning import Trial, Tuning

TUNING_ATTACKS = ("random", "label_flip", "mimic", "min_max")
"""None of those that `byzgym compare` has by default."""
SHOWN = 10
"""Trials in the table."""


@dataclass(frozen=True, kw_only=True)
class Tune(Playing, Comparison):
    """Find good parameters of one policy, by its worst attack, on validation samples.

    The first trial is the policy as it is named, the control; Optuna chooses the others (pip install
    'byzgym[tune]'). Accuracy is measured on a fifth of the training data, which neither workers nor server
    have; test data have no part in it. Attacks and seeds are others than those of the report, for which a
    command is printed. The same command goes on where it stopped.
    """

    policy: tyro.conf.Positional[str]
    """A rule or another agent, such as gaa, or with fixed parameters `gaa:window=3`."""
    search: tuple[str, ...]
    """What to search: `window=1:20` (whole numbers), `learning_rate=0.001:0.3:log`, `after_rise=start,end`
    (choices); `run.learning_rate=0.01:1:log` is an argument of the run."""
    trials: int = 30
    """Trials in all, with the control."""
    seed: int = 0
    """Of the search."""
    attacks: tuple[str, ...] = TUNING_ATTACKS
    """Attacks of the trials."""
    seeds: int = 3
    """Number of seeds of each trial."""
    first_seed: int = 1000
    """The seeds are this one and those that follow it; the report has 0 to 4."""
    report_attacks: tuple[str, ...] = DEFAULT_ATTACKS
    """Attacks of the report, none of them one of the trials."""
    out: Path = Path("byzgym-tuning")
    """Folder for runs.sqlite and tuning.sqlite, which hold every run and every trial."""
    policies: Annotated[tuple[str, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()

    def __post_init__(self) -> None:
        """Leave the checks to `run`, which reports mistakes in one line."""

    def run(self, terminal: Terminal) -> None:
        """Search, and show the best trials and the command that reports the winner."""
        from byzgym.experiments import tuning
        from byzgym.experiments.grid import engine_for

        with mistakes():
            check_int("trials", self.trials, low=1)
            given = arguments(self, Comparison) | {"policies": self.policy}
            comparison = Comparison(**given)
            report = self._report(comparison)
            search = [tuning.Parameter.read(text) for text in self.search]
            tuner = tuning.Tuning(comparison, search, self.out, self.seed, terminal.imports)
            tuner.check()
            engine = engine_for(self.engine, self._processes(), self.address, terminal.imports)
        terminal.line(_described(comparison))
        try:
            with mistakes(), files.lock(self.out):
                if self.overwrite:
                    tuning.discard(self.out)
                done = min(len(tuner.trials()), self.trials)
                total = self.trials * tuner.rounds
                with terminal.progress(total, done * tuner.rounds, every=30) as advance:
                    tuner.play(self.trials, engine, advance)
        except KeyboardInterrupt:
            print("byzgym: interrupted; the same command goes on", file=sys.stderr)
            raise
        self._show(tuner, report, terminal)

    def _processes(self) -> int | None:
        if self.processes is not None:
            return check_int("processes", self.processes, low=1)
        return None if self.device == "cpu" else 1

    def _report(self, comparison: Comparison) -> Comparison:
        """What reports the winner; refused where it has attacks or seeds of the trials."""
        default = Comparison()
        report = replace(
            comparison,
            attacks=self.report_attacks,
            seeds=default.seeds,
            first_seed=default.first_seed,
        )
        own = {specs.parse(attack)["name"] for attack in comparison.attacks}
        if both := sorted(own & {specs.parse(attack)["name"] for attack in report.attacks}):
            raise ValueError(
                f"attacks and report_attacks must not share {', '.join(both)}: what has been tuned against "
                "an attack says little about others"
            )
        last = report.first_seed + report.seeds - 1
        if comparison.first_seed <= last:
            raise ValueError(
                f"first_seed must be above {last}, as the report has seeds {report.first_seed} to {last}, "
                f"got {comparison.first_seed}"
            )
        return report

    def _show(self, tuner: Tuning, report: Comparison, terminal: Terminal) -> None:
        from byzgym.experiments.tuning import best

        trials = tuner.trials()
        control, ranked = trials[0], best(trials)
        if failed := [trial for trial in trials if trial.error]:
            print(f"byzgym: {len(failed)} of {len(trials)} trials failed: {failed[0].error}", file=sys.stderr)
        if not ranked:
            raise InputError("no trial has succeeded")
        terminal.print(_table(ranked, control))
        winner = ranked[0]
        if winner is control:
            terminal.line("no trial was better than the control")
            return
        beside = (control.policy, winner.policy) if not winner.run else (winner.policy,)
        reports = [replace(report, policies=beside, **winner.run)]
        if winner.run:  # which the control does not have
            reports.insert(0, replace(report, policies=(control.policy,)))
        shown = "\n".join(command(terminal.imports, "compare", *options(one, Comparison)) for one in reports)
        terminal.line(
            f"best: {_name(winner)}. It is the best of {len(trials)} on what it was chosen by; report it on "
            f"other attacks and seeds:\n{shown}"
        )


def _described(comparison: Comparison) -> str:
    last = comparison.first_seed + comparison.seeds - 1
    return (
        f"tuning on validation samples of {comparison.task}, a fifth of its training data, with attacks "
        f"{' '.join(comparison.attacks)}, f = {' '.join(map(str, comparison.num_byzantine))} of "
        f"{comparison.num_workers} and seeds {comparison.first_seed} to {last}"
    )


def _table(ranked: Sequence[Trial], control: Trial) -> object:
    """The best trials and the control: accuracy in the worst case."""
    from rich import box
    from rich.table import Column, Table

    accuracy, f, diverged = (Column(name, justify="right") for name in ("accuracy", "f", "diverged"))
    table = Table(
        Column("trial", overflow="fold"), accuracy, "worst attack", f, diverged, box=box.SIMPLE_HEAD
    )
    chosen = list(ranked[:SHOWN])
    if control in ranked and control not in chosen:
        chosen.append(control)
    for trial in chosen:
        name = f"{_name(trial)} (control)" if trial is control else _name(trial)
        values = f"{trial.accuracy:.3f}", trial.attack, str(trial.num_byzantine), str(trial.diverged)
        table.add_row(name, *values)
    return table


def _name(trial: Trial) -> str:
    run = [f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in trial.run.items()]
    return " ".join([trial.policy, *run])
