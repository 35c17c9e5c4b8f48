"""One episode that is watched: its record, and the tables of its verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from rich import box
from rich.table import Column, Table

from byzgym.forensics import Analysis, Evaluation, Log, Recorder
from byzgym.forensics.picture import group_letter


class Watched(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A ``ByzantineAggregation-v0`` whose rounds a log and a recorder take down.

    Args:
        env: The single environment, without wrappers that change its actions.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.log = Log(rounds=1)
        self.recorder: Recorder | None = None

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take down the round, and play it."""
        inner: Any = self.unwrapped
        decision = inner.actions.decode(np.asarray(action)[None], inner.view)
        self.log.add(inner.view, decision)
        if self.recorder is not None:
            self.recorder.add(self.log, byzantine=inner.simulation.byzantine_rows[0])
        return self.env.step(action)

    def title(self, player: str) -> str:
        """What is played in the present episode."""
        simulation: Any = self.unwrapped.simulation  # type: ignore[attr-defined]
        setup, f = simulation.setup, int(simulation.workers.assigned[0].sum())
        who = f"{f} of {setup.num_workers} workers Byzantine, roles {setup.roles_name}"
        if simulation.faulty[0]:
            who = f"a fault in transmission, none of {setup.num_workers} workers Byzantine"
        return f"{player}, attack {simulation.attack_names[0]}, {who}"


def play_recorded(
    env: gymnasium.Env[Any, Any],
    watched: Watched,
    predict: Callable[..., tuple[np.ndarray, Any]],
    path: Path,
    configuration: dict[str, Any],
    seed: int,
    progress: Callable[[str, int], None] = lambda what, rounds: None,
) -> Analysis:
    """Play one episode and write its record.

    Args:
        env: The environment, perhaps with wrappers around ``watched``.
        watched: What takes the rounds down.
        predict: As of an agent or a stable-baselines3 model.
        path: The file of the record, which is replaced.
        configuration: For its first line; a title is added.
        seed: Of the episode.
        progress: Called with what is played and the number of rounds just played.

    Returns:
        What the record says.
    """
    observation, _ = env.reset(seed=seed)
    watched.log.reset()
    title = watched.title(str(configuration["player"]))
    state, start, done = None, np.array([True]), False
    with Recorder(path, {"title": title, **configuration}, overwrite=True) as watched.recorder:
        while not done:
            action, state = predict(observation, state=state, episode_start=start, deterministic=True)
            observation, _, terminated, truncated, _ = env.step(action)
            start, done = np.array([False]), terminated or truncated
            progress(str(configuration["player"]), 1)
        analysis = watched.recorder.close()
    assert analysis is not None  # an episode has a round
    return analysis


def verdict_table(analysis: Analysis) -> Table:
    """One row a worker, for the terminal."""
    right = {"justify": "right"}
    columns = (Column("suspicion", **right), Column("accused", **right))  # type: ignore[arg-type]
    table = Table("worker", "verdict", *columns, "role changes", "copies", box=box.SIMPLE_HEAD)
    for verdict in analysis.verdicts:
        accused = verdict.pattern != "honest"
        changes = [f"{at}{'+' if attacks else '-'}" for at, attacks in verdict.changes]
        hidden = f" ... {len(changes)} in all" if len(changes) > 6 else ""
        table.add_row(
            str(verdict.worker),
            str(verdict),
            f"{verdict.suspicion:.2f}",
            f"{verdict.accused:.0%}",
            " ".join(changes[:6]) + hidden,
            group_letter(verdict.group),
            style="bold" if accused else None,
        )
    return table


def notes(analysis: Analysis, evaluation: Evaluation | None) -> list[str]:
    """What the table does not say."""
    threshold = analysis.threshold
    value = "none" if threshold.nobody else f"{threshold.value:.2f}"
    apart = f"{threshold.separation:.1f} standard deviations and {threshold.gap:.2f} apart"
    lines = [analysis.summary, f"threshold of suspicion: {value} (its two sides are {apart})"]
    if any(verdict.changes for verdict in analysis.verdicts):
        lines.append("role changes: + attacks from this round on, - stops")
    if evaluation is not None and math.isnan(evaluation.recall):
        wrong = ", so all accusations are wrong" if analysis.flagged.any() else ""
        lines.append(f"beside the truth: no worker was Byzantine{wrong}")
    elif evaluation is not None:
        numbers = {"AUC": evaluation.auc, "precision": evaluation.precision, "recall": evaluation.recall}
        shown = [f"{name} {'-' if math.isnan(value) else f'{value:.2f}'}" for name, value in numbers.items()]
        lines.append(f"beside the truth, over workers and rounds: {', '.join(shown)}")
    return lines
