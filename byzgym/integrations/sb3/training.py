"""A training in a folder: it evaluates and saves itself, stops when asked to, and goes on after any end."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger, configure
from stable_baselines3.common.utils import safe_mean

from byzgym import files
from byzgym.integrations.sb3 import checkpoints, evaluation, learners
from byzgym.integrations.sb3.config import CHECKPOINTS, NAME, TrainingConfig, said_by
from byzgym.tracking import Tracker, run_name

MODEL, BEST, EVALUATIONS, TENSORBOARD = "model.zip", "best_model.zip", "evaluations.csv", "tensorboard"
PAUSE = 300.0
"""Seconds after which a checkpoint is saved also between evaluations."""
COLUMNS: dict[str, type] = {
    "policy": str,
    "steps": int,
    "episodes": int,
    **dict.fromkeys(("return", "return_std", "accuracy", "accuracy_std", "diverged"), float),
}
"""The columns of evaluations.csv."""


class Training:
    """A learner in a folder.

    The folder holds training.json, evaluations.csv, the last two checkpoints, best_model.zip (of the
    evaluation with the highest mean return; accuracy on test data has no part in it), logs for TensorBoard
    where that is installed, and in the end model.zip. Each file is replaced as a whole. Checkpoints are saved
    between two rollouts, so that a training that goes on from one does what it would have done without the
    interruption.

    Args:
        folder: Where everything goes. The caller has locked it.
        config: How to train.
        resume: Whether to go on from the last checkpoint that can be read; otherwise what the folder holds of
            another training is removed when `run` begins.

    Attributes:
        model: The learner.
        rows: The rows of evaluations.csv.
        problems: Why checkpoints that are later than the one it goes on from cannot be read, a line each.

    Raises:
        ValueError: If a value is not allowed, or no checkpoint can be read.
        TypeError: If an argument does not exist.
        ImportError: If the algorithm needs sb3-contrib, which is not installed.
    """

    def __init__(self, folder: Path, config: TrainingConfig, resume: bool = False) -> None:
        self.folder, self.config = folder, config
        self._fresh = not resume
        with said_by(folder / NAME if resume else None):  # a file may say what is not allowed
            arguments, beta = config.environment, config.softmax_beta
            self._evaluated = evaluation.environments(config.evaluation_episodes, beta, arguments)
        saved, self.problems = self._last_checkpoint() if resume else (None, [])
        with said_by(folder / NAME if resume else None):
            self.model: BaseAlgorithm = learners.make(config) if saved is None else saved
        rows = _read(folder / EVALUATIONS) if resume else []
        self.rows: list[dict[str, Any]] = [row for row in rows if row["steps"] <= self.steps_done]
        self._asked_to_stop = False
        self._saved_at = time.monotonic()

    def _last_checkpoint(self) -> tuple[BaseAlgorithm | None, list[str]]:
        """See `checkpoints.load_last`; None only where no steps were done."""
        folder, config = self.folder, self.config
        saved, problems = checkpoints.load_last(
            folder / CHECKPOINTS, config.algorithm, lambda: learners.environments(config)
        )
        if saved is None and config.steps_done > 0:
            raise ValueError(
                f"{folder} holds no checkpoint of the {config.steps_done} steps that were done, so it cannot "
                "go on; --overwrite begins anew"
            )
        return saved, problems

    @property
    def steps_done(self) -> int:
        """Environment steps of the learner so far."""
        return self.model.num_timesteps

    def run(
        self,
        on_steps: Callable[[int, float | None], None] = lambda steps, mean_return: None,
        on_evaluation: Callable[[dict[str, Any]], None] = lambda row: None,
        on_interrupt: Callable[[], None] = lambda: None,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        """Train up to the steps of the configuration, and write model.zip.

        Args:
            on_steps: Called with the steps just done, and the mean return of the last 100 training episodes
                (None before the first one has ended).
            on_evaluation: Called with each new row of evaluations.csv.
            on_interrupt: Called at the first SIGINT, after which the training goes on to the end of a rollout
                and saves a checkpoint. A second one ends it at once.
            trackers: Get the configuration, what the learner logs and the last evaluation.

        Raises:
            files.WriteError: If a file cannot be written.
            KeyboardInterrupt: After SIGINT.
        """
        self._on_evaluation, self._on_interrupt = on_evaluation, on_interrupt
        with _asked_by_signal(self._stop):
            if self._fresh:
                self._begin()
            self._evaluate_controls()
            self.model.set_logger(_logger(self.folder, trackers))
            with self._tracked(trackers):
                left = self.config.steps - self.steps_done
                if left > 0:
                    self.model.learn(left, _Between(self, on_steps), reset_num_timesteps=False)
                self._evaluate()
            self._write_model(MODEL)
            self._save()  # after the model, so that a training whose steps are all saved has one

    @contextmanager
    def _tracked(self, trackers: Sequence[Tracker]) -> Iterator[None]:
        """Tell trackers where the training begins, and where it ends or is interrupted."""
        name = run_name(self.folder.absolute().name)
        for tracker in trackers:
            tracker.start(name, json.loads(self.config.text()))
        try:
            yield
        finally:
            own = [row for row in self.rows if row["policy"] == self.config.algorithm]
            numbers = {k: v for row in own[-1:] for k, v in row.items() if k not in ("policy", "steps")}
            for tracker in trackers:
                tracker.finish({f"final/{k}": v for k, v in numbers.items()})

    def between_rollouts(self) -> None:
        """Evaluate and save where it is time, and stop if asked to."""
        if self.steps_done == 0:
            self._save()
        every, last = self.config.evaluate_every, self._last_evaluation()
        if self.steps_done // every > last // every:
            self._evaluate()
            self._save()
        elif self._asked_to_stop or time.monotonic() - self._saved_at > PAUSE:
            self._save()
        self._end_if_asked()

    def _stop(self) -> None:
        self._asked_to_stop = True
        self._on_interrupt()

    def _end_if_asked(self) -> None:
        if self._asked_to_stop:
            raise KeyboardInterrupt

    def _begin(self) -> None:
        """Make the folder one of this training: remove what an earlier one has left."""
        discard(self.folder)
        files.write_texts({self.folder / NAME: self.config.text()})

    def _evaluate_controls(self) -> None:
        for name in evaluation.controls():
            if not any(row["policy"] == name for row in self.rows):
                episodes = self.config.evaluation_episodes
                played = evaluation.play_control(name, episodes, self.config.environment, self._end_if_asked)
                self._add(name, 0, played)

    def _evaluate(self) -> None:
        """Evaluate the model, unless it has been since its last step; keep it if it is the best so far."""
        before = [row["return"] for row in self.rows if row["policy"] == self.config.algorithm]
        if before and self._last_evaluation() == self.steps_done:
            return
        scores = evaluation.play(self._evaluated, self.model.predict)
        for name in ("return", "accuracy"):
            self.model.logger.record(f"evaluation/{name}", scores[name])
        self.model.logger.dump(self.steps_done)
        if scores["return"] > max(before, default=-float("inf")):
            self._write_model(BEST)
        self._add(self.config.algorithm, self.steps_done, scores)

    def _last_evaluation(self) -> int:
        return max((row["steps"] for row in self.rows), default=0)

    def _add(self, policy: str, steps: int, scores: dict[str, float]) -> None:
        row = {"policy": policy, "steps": steps, "episodes": self.config.evaluation_episodes, **scores}
        self.rows.append(row)
        files.write_texts({self.folder / EVALUATIONS: _text(self.rows)})
        self._on_evaluation(row)

    def _save(self) -> None:
        """Write a checkpoint, and remove those that are older than the one before."""
        folder = self.folder / CHECKPOINTS
        folder.mkdir(exist_ok=True)
        checkpoints.save(self.model, folder / f"{self.steps_done}.zip")
        self.config = replace(self.config, steps_done=self.steps_done)
        files.write_texts({self.folder / NAME: self.config.text()})
        checkpoints.prune(folder, self.steps_done)
        self._saved_at = time.monotonic()

    def _write_model(self, name: str) -> None:
        with files.write_whole(self.folder / name) as temporary:
            self.model.save(temporary)


class _Between(BaseCallback):
    """Tells a training of its rollouts and steps."""

    def __init__(self, training: Training, on_steps: Callable[[int, float | None], None]) -> None:
        super().__init__()
        self._owner, self._on_steps = training, on_steps

    def _on_rollout_start(self) -> None:
        self._owner.between_rollouts()

    def _on_step(self) -> bool:
        episodes = self.model.ep_info_buffer
        mean_return = safe_mean([episode["r"] for episode in episodes]) if episodes else None
        self._on_steps(self.training_env.num_envs, mean_return)
        return True


def held(folder: Path) -> list[Path]:
    """The files of a training in a folder, and those that have their names."""
    single = [folder / name for name in (NAME, MODEL, BEST, EVALUATIONS)]
    logs = sorted((folder / TENSORBOARD).glob("events.out.tfevents.*"))
    return [path for path in single if path.exists()] + checkpoints.found(folder / CHECKPOINTS) + logs


def discard(folder: Path) -> None:
    """Remove the files of a training, and nothing else."""
    for path in held(folder):
        path.unlink()


def has_tensorboard() -> bool:
    """Whether TensorBoard is installed."""
    return importlib.util.find_spec("tensorboard") is not None


def _logger(folder: Path, trackers: Sequence[Tracker]) -> Logger:
    formats: list[KVWriter] = [_Tracking(trackers)] if trackers else []
    if has_tensorboard():
        formats += configure(str(folder / TENSORBOARD), ["tensorboard"]).output_formats
    return Logger(str(folder), formats)


class _Tracking(KVWriter):
    """Gives trackers the numbers that a learner logs."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        numbers = {k: float(v) for k, v in key_values.items() if isinstance(v, int | float | np.number)}
        for tracker in self._trackers:
            tracker.log(step, numbers)

    def close(self) -> None:
        """Nothing: trackers are finished by `Training.run`."""


def _text(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: f"{v:.7g}" if isinstance(v, float) else v for name, v in row.items()} for row in rows
    )
    return text.getvalue()


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return [{name: kind(row[name]) for name, kind in COLUMNS.items()} for row in csv.DictReader(file)]
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path} does not hold the evaluations of a training") from None


@contextmanager
def _asked_by_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first SIGINT only ask to stop; the second one raises KeyboardInterrupt at once.

    That holds also where SIGINT was ignored, as it is in the background jobs of a script.
    """
    if threading.current_thread() is not threading.main_thread():  # others may set no handlers, and get none
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before if callable(before) else signal.default_int_handler)
        stop()

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        with suppress(TypeError):  # a handler that Python has not set cannot be put back
            signal.signal(signal.SIGINT, before)
