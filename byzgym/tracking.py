"""Logs of runs and trainings for TensorBoard, Weights & Biases and MLflow, behind one small interface.

Nothing depends on a tracker: one that fails says so in a line, and the run goes on without it. What a tracker
needs is imported when it is made.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

PROJECT = "byzgym"
"""The project (wandb) or experiment (mlflow) where WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names no other."""
_FINAL = ("accuracy", "attack_success_rate", "qv_loss", "byzantine_credit", "detection_auc", "seconds")


class Tracker(Protocol):
    """Keeps a log of one run after the other."""

    def start(self, name: str, configuration: Mapping[str, Any]) -> None:
        """Begin a run. The name holds letters, digits and signs that file systems take."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note finite numbers at a round, or at a step of a training."""
        ...

    def finish(self, summary: Mapping[str, float]) -> None:
        """End the run with its last numbers, which are finite."""
        ...


class TensorBoard:
    """Event files in the folder "tensorboard", a folder each run; configurations are hyperparameters."""

    def __init__(self, folder: Path) -> None:
        _need("tensorboard", "train")
        self._folder = folder / "tensorboard"

    def start(self, name: str, configuration: Mapping[str, Any]) -> None:
        """See `Tracker.start`."""
        from torch.utils.tensorboard import SummaryWriter

        self._configuration = {k: _plain(v) for k, v in configuration.items()}
        self._writer = SummaryWriter(str(self._folder / name))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, summary: Mapping[str, float]) -> None:
        """See `Tracker.finish`."""
        self._writer.add_hparams(self._configuration, dict(summary), run_name=".")
        self._writer.close()


class Wandb:
    """Runs of Weights & Biases; with WANDB_MODE=offline they stay in the folder "wandb"."""

    def __init__(self, folder: Path) -> None:
        self._wandb = _need("wandb", "wandb")
        self._folder = folder

    def start(self, name: str, configuration: Mapping[str, Any]) -> None:
        """See `Tracker.start`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            config=dict(configuration),
            dir=str(self._folder),
            reinit="create_new",
            settings=self._wandb.Settings(console="off", silent=True),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._run.log(dict(metrics), step=step)

    def finish(self, summary: Mapping[str, float]) -> None:
        """See `Tracker.finish`."""
        self._run.summary.update(dict(summary))
        self._run.finish()


class Mlflow:
    """Runs of MLflow, at MLFLOW_TRACKING_URI, or where that is not set in the folder's mlflow.db."""

    def __init__(self, folder: Path) -> None:
        self._mlflow = _need("mlflow", "mlflow")
        self._folder = folder
        self._client: Any = None

    def start(self, name: str, configuration: Mapping[str, Any]) -> None:
        """See `Tracker.start`."""
        if self._client is None:
            self._open()
        self._run = self._client.create_run(self._experiment, run_name=name).info.run_id
        params = [self._mlflow.entities.Param(k, str(_plain(v))) for k, v in configuration.items()]
        self._client.log_batch(self._run, params=params)

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        where = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{self._folder.absolute()}/mlflow.db")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        self._client = self._mlflow.MlflowClient(tracking_uri=where)
        found = self._client.get_experiment_by_name(name)
        self._experiment = self._client.create_experiment(name) if found is None else found.experiment_id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        now = int(time.time() * 1000)
        points = [self._mlflow.entities.Metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self._run, metrics=points)

    def finish(self, summary: Mapping[str, float]) -> None:
        """See `Tracker.finish`."""
        self.log(0, summary)
        self._client.set_terminated(self._run)


class _Careful:
    """A tracker whose errors end its log of a run, and nothing else."""

    def __init__(self, what: str, tracker: Tracker, complain: Callable[[str], None]) -> None:
        self._what, self._tracker, self._complain = what, tracker, complain
        self._run = ""

    def start(self, name: str, configuration: Mapping[str, Any]) -> None:
        self._run = name
        self._try(self._tracker.start, name, configuration)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._try(self._tracker.log, step, _finite(metrics))

    def finish(self, summary: Mapping[str, float]) -> None:
        self._try(self._tracker.finish, _finite(summary))
        self._run = ""

    def _try(self, call: Callable[..., None], *arguments: Any) -> None:
        if not self._run:
            return
        try:
            call(*arguments)
        except Exception as error:  # of a network, an account, a full disk
            why = " ".join(f"{type(error).__name__}: {error}".split())
            self._complain(f"{self._what} has no more of {self._run}: {why}")
            self._run = ""


KINDS: dict[str, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb, "mlflow": Mlflow}
"""What `--track` names."""


def make(names: Sequence[str], folder: Path, complain: Callable[[str], None]) -> list[Tracker]:
    """Trackers whose errors do no harm.

    Args:
        names: Of `KINDS`.
        folder: Where their files go.
        complain: Called with a line about an error.

    Raises:
        ImportError: If a package is missing; the message names the extra that has it.
    """
    return [_Careful(name, KINDS[name](folder), complain) for name in dict.fromkeys(names)]


def log_run(trackers: Sequence[Tracker], row: Mapping[str, Any]) -> None:
    """Log a finished run of a comparison: a row of the store with configuration, curve and final numbers."""
    if row["status"] != "done":
        return
    configuration = json.loads(row["configuration"])
    who = f"{row['policy']},{row['attack']},f={row['num_byzantine']},seed={row['seed']}"
    curve = json.loads(row["curve"])
    rounds = curve.pop("round")
    summary = {f"final/{name}": row[name] for name in _FINAL} | {"final/diverged": float(row["diverged"])}
    for tracker in trackers:
        tracker.start(f"{run_name(who)},{row['key'][:8]}", configuration)
        for number, step in enumerate(rounds):
            values = {name: column[number] for name, column in curve.items()}
            tracker.log(step, {name: value for name, value in values.items() if value is not None})
        tracker.finish(summary)


def run_name(text: str) -> str:
    """A name of a run that every file system takes.

    Example:
        >>> run_name("nnm+krum:num_byzantine=2")
        'nnm+krum-num_byzantine=2'
    """
    return re.sub(r"[^\w=,.+-]", "-", text)[:150] or "run"


def _need(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"--track {package} needs {package}: pip install 'byzgym[{extra}]'") from error


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value, default=str)
