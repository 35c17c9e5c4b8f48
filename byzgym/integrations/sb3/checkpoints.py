"""Checkpoints: a model with all that its training needs to go on as if it had not been interrupted.

A checkpoint is one zip file that stable-baselines3 reads as a model, with two entries more: the state of the
environments and of the random generators, and the replay buffer of a learner that has one.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor

from byzgym import files
from byzgym.integrations.sb3.learners import learner_class

# ruff: noqa: NPY002  # stable-baselines3 draws from NumPy's global generator

KEPT = 2
"""How many checkpoints stay."""
_STATE, _BUFFER = "byzgym_state.pkl", "byzgym_replay_buffer.pkl"
_COUNTS = ("episode_count", "episode_returns", "episode_lengths")  # of VecMonitor


def save(model: BaseAlgorithm, path: Path) -> None:
    """Write a checkpoint between two rollouts of a training.

    Raises:
        files.WriteError: If it cannot be written; nothing changes then.
    """
    entries = {_STATE: _state(model)}
    if getattr(model, "replay_buffer", None) is not None:
        entries[_BUFFER] = model.replay_buffer  # type: ignore[attr-defined]
    with files.write_whole(path) as temporary:
        model.save(temporary)
        with ZipFile(temporary, "a", ZIP_DEFLATED, compresslevel=1) as archive:
            for name, value in entries.items():
                with archive.open(name, "w", force_zip64=True) as file:
                    pickle.dump(value, file, pickle.HIGHEST_PROTOCOL)


def load(path: Path, algorithm: str, env: VecEnv) -> BaseAlgorithm:
    """The learner of a checkpoint, in environments like those of its training; the random generators move.

    Raises:
        ValueError: If the file is no such checkpoint, or is damaged.
        OSError: If it may not be read.
        ImportError: If the algorithm needs sb3-contrib, which is not installed.
    """
    kind = learner_class(algorithm)
    try:
        model = kind.load(path, env=env, device="cpu", force_reset=False)
        with ZipFile(path) as archive:
            held = {name: archive.read(name) for name in (_STATE, _BUFFER) if name in archive.namelist()}
        if _BUFFER in held:
            model.replay_buffer = pickle.loads(held[_BUFFER])  # type: ignore[attr-defined]
        _restore(model, pickle.loads(held[_STATE]))
    except (ImportError, MemoryError, PermissionError):  # say nothing about the file
        raise
    except Exception as error:  # whatever unpickling a damaged file raises
        raise ValueError(f"{path} is not a checkpoint of {algorithm} that can be read: {error}") from error
    return model


def load_last(
    folder: Path, algorithm: str, environments: Callable[[], VecEnv]
) -> tuple[BaseAlgorithm | None, list[str]]:
    """The learner of the last checkpoint in a folder that can be read.

    Args:
        folder: Where the checkpoints are.
        algorithm: Of the learner.
        environments: Makes environments like those of its training; those of a failed attempt are not used
            again.

    Returns:
        The learner, None if there is no checkpoint; and why later checkpoints cannot be read, a line each.

    Raises:
        ValueError: If there are checkpoints, and none can be read.
        ImportError: If the algorithm needs sb3-contrib, which is not installed.
    """
    problems: list[str] = []
    for path in reversed(found(folder)):
        try:
            return load(path, algorithm, environments()), problems
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("; ".join([*problems, "--overwrite begins anew"]))
    return None, []


def prune(folder: Path, steps: int) -> None:
    """Remove all checkpoints but the last two up to so many steps: later ones could not be read."""
    last = [path for path in found(folder) if int(path.stem) <= steps][-KEPT:]
    for path in found(folder):
        if path not in last:
            path.unlink()


def found(folder: Path) -> list[Path]:
    """The checkpoints in a folder. They are called by the steps before them."""
    paths = [path for path in folder.glob("*.zip") if path.stem.isdecimal()]
    return sorted(paths, key=lambda path: int(path.stem))


def _state(model: BaseAlgorithm) -> dict[str, Any]:
    """What stable-baselines3 does not save."""
    monitor, environment = _layers(model)
    return {
        "environment": environment.snapshot(),
        "monitor": {name: getattr(monitor, name) for name in _COUNTS},
        "lstm": getattr(model, "_last_lstm_states", None),
        "actions": model.action_space.np_random.bit_generator.state,  # drawn from before sac and td3 learn
        "random": (random.getstate(), np.random.get_state(), torch.get_rng_state()),
    }


def _restore(model: BaseAlgorithm, state: dict[str, Any]) -> None:
    monitor, environment = _layers(model)
    monitor.reset()  # for the infos of the resets, which the adapter keeps
    environment.restore(state["environment"])
    vars(monitor).update(state["monitor"])
    if state["lstm"] is not None:
        model._last_lstm_states = state["lstm"]  # type: ignore[attr-defined]
    model.action_space.np_random.bit_generator.state = state["actions"]
    of_python, of_numpy, of_torch = state["random"]
    random.setstate(of_python)
    np.random.set_state(of_numpy)
    torch.set_rng_state(of_torch)


def _layers(model: BaseAlgorithm) -> tuple[VecMonitor, Any]:
    """What counts episodes, and the native vector environment."""
    layer: Any = model.env
    monitor: Any = None
    while isinstance(layer, VecEnvWrapper):
        monitor = layer if isinstance(layer, VecMonitor) else monitor
        layer = layer.venv
    return monitor, layer.venv.unwrapped
