"""Playing a comparison: one batched simulation for each policy and number of Byzantine workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import byzgym
from byzgym import specs
from byzgym.envs.rewards import exploded
from byzgym.experiments.comparison import Comparison
from byzgym.experiments.files import prepare
from byzgym.experiments.measures import CreditLog
from byzgym.experiments.policies import Told, decide, install, told
from byzgym.experiments.records import Records, claim, discard_drawings
from byzgym.simulation import Simulation

_FEW_NUMBERS = 2_000_000
"""Submissions of a round with fewer entries than this are worked on by one thread."""


@dataclass
class Batch:
    """The runs of one policy at one number of Byzantine workers: all attacks and seeds."""

    results: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)


def check(comparison: Comparison) -> list[Told]:
    """Play the first decision of every policy under every attack, so that what cannot run fails at once.

    Returns:
        The rules that will be told a smaller f than the true one.

    Raises:
        ValueError: If a value is not allowed.
        TypeError: If a parameter does not exist.
        OSError: If the data cannot be read.
        RuntimeError: If the task needs a library that does not work here.
    """
    lowered = []
    for num_byzantine in comparison.num_byzantine:
        one_each = [specs.parse(attack) for attack in comparison.attacks]
        simulation = Simulation.make(
            len(one_each),
            seed=0,
            per_environment=[{"attack": attack} for attack in one_each],
            num_byzantine=num_byzantine,
            attack=one_each[0],
            **comparison.environment(),
        )
        for policy in comparison.policies:
            agent = install(policy, simulation, num_byzantine)
            agent.reset()
            decide(agent, simulation)
            entry = told(policy, simulation.num_rows, num_byzantine)
            lowered += [] if entry is None else [entry]
    return lowered


def compare(
    comparison: Comparison,
    folder: str | Path,
    overwrite: bool = False,
    progress: Callable[[str, int], None] = lambda policy, rounds: None,
) -> Records:
    """`begin` and `play`: all of a comparison, with its records in a folder."""
    records = begin(comparison, Path(folder), overwrite)
    play(records, Path(folder), progress)
    return records


def begin(comparison: Comparison, folder: Path, overwrite: bool = False) -> Records:
    """Check everything, and that there is a folder to write to. Earlier results in it stay for now.

    Args:
        comparison: What to play.
        folder: Where results.csv, curves.csv and config.json go.
        overwrite: Whether results in the folder may be replaced.

    Raises:
        FileExistsError: If the folder holds what would be replaced and ``overwrite`` is False.
        OSError: If the folder cannot be made or written to.
        Exception: What `check` raises.
    """
    comparison.check_names()
    claim(folder, comparison, overwrite)
    records = Records.begin(comparison, check(comparison))
    prepare(folder)
    return records


def play(records: Records, folder: Path, progress: Callable[[str, int], None]) -> None:
    """Play policy after policy; after each of them the files hold what is finished.

    Earlier results in the folder are replaced when the first policy has been played.

    Args:
        records: From `begin`; the runs are added to it.
        folder: Where the files are.
        progress: Called with the policy and the number of rounds just played.
    """
    comparison = records.comparison
    for num_byzantine in comparison.num_byzantine:
        for policy in comparison.policies:
            batch = play_batch(comparison, policy, num_byzantine, partial(progress, policy))
            first = records.results.empty
            records.add(batch.results, batch.curves)
            records.write(folder)
            if first:
                discard_drawings(folder)


def play_batch(
    comparison: Comparison,
    policy: str,
    num_byzantine: int,
    progress: Callable[[int], None] = lambda rounds: None,
) -> Batch:
    """Play one policy under all attacks and seeds, side by side.

    A run that diverges goes on: the server refuses what is not finite and keeps its parameters.
    """
    started = time.perf_counter()
    members = comparison.members
    simulation = Simulation.make(
        len(members),
        seed=0,
        per_environment=[{"attack": specs.parse(attack)} for attack, _ in members],
        num_byzantine=num_byzantine,
        attack=specs.parse(comparison.attacks[0]),
        **comparison.environment(),
    )
    agent = install(policy, simulation, num_byzantine)
    simulation.reset(comparison.simulation_seeds)
    agent.reset()
    keys = [
        {"policy": policy, "attack": attack, "num_byzantine": num_byzantine, "seed": seed}
        for attack, seed in members
    ]
    batch, log = Batch(), CreditLog(comparison.rounds)
    with _enough_threads(simulation):
        _note(batch, keys, 0, *_measure(simulation))
        for round in range(comparison.rounds):
            update, credits = decide(agent, simulation)
            log.add(round, credits, simulation.byzantine_rows)
            simulation.apply(update, credits)
            if (round + 1) % comparison.interval == 0 and round + 1 < comparison.rounds:
                _note(batch, keys, round + 1, *_measure(simulation))
            progress(1)
        accuracy, loss = _measure(simulation)
    _note(batch, keys, comparison.rounds, accuracy, loss)
    diverged = simulation.diverged | exploded(loss, simulation.initial_loss)
    seconds = (time.perf_counter() - started) / len(members)
    common = {
        "task": specs.canonical(comparison.task),
        "model": comparison.model or simulation.setup.task.model,
        "roles": specs.canonical(comparison.roles),
        "partition": specs.canonical(comparison.partition),
        "num_workers": comparison.num_workers,
        "rounds": comparison.rounds,
        "seconds": float(f"{seconds:.4g}"),
        "version": byzgym.__version__,
    }
    for env, key in enumerate(keys):
        batch.results.append(
            {
                **common,
                **key,
                "accuracy": _rounded(accuracy[env]),
                "qv_loss": _rounded(loss[env]),
                "byzantine_credit": _rounded(log.byzantine_credit(env)),
                "detection_auc": _rounded(log.detection_auc(env)),
                "diverged": bool(diverged[env]),
            }
        )
    return batch


@contextmanager
def _enough_threads(simulation: Simulation) -> Iterator[None]:
    """One CPU thread for small models: more gain nothing there, and stall where other work runs beside."""
    threads = torch.get_num_threads()
    if simulation.gradients.numel() < _FEW_NUMBERS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _measure(simulation: Simulation) -> tuple[Tensor, Tensor]:
    return simulation.evaluate()["accuracy"], simulation.qv_loss()


def _note(batch: Batch, keys: list[dict[str, Any]], round: int, accuracy: Tensor, loss: Tensor) -> None:
    for env, key in enumerate(keys):
        batch.curves.append(
            {**key, "round": round, "accuracy": _rounded(accuracy[env]), "qv_loss": _rounded(loss[env])}
        )


def _rounded(value: Tensor | float) -> float:
    """Seven digits: all that a float32 holds."""
    return float(f"{float(value):.7g}")
