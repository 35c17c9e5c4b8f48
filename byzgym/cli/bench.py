"""`byzgym bench`: a short check of speed, in ratios that a machine's load hardly changes."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from rich import box
from rich.table import Column, Table

from byzgym.cli.terminal import Terminal, mistakes
from byzgym.envs import ENV_ID
from byzgym.validation import check_int

REPEATS, STEPS = 5, 3
"""Measurements of both in turns, of which the median counts, and steps of each measurement."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure the steps per second of the native vector environment beside single ones."""

    num_envs: int = 64
    """Environments side by side, at least 1."""

    def run(self, terminal: Terminal) -> None:
        """Measure and tabulate."""
        with mistakes():
            count = check_int("num_envs", self.num_envs, low=1)
        single = gymnasium.make_vec(ENV_ID, num_envs=count, vectorization_mode="sync")
        native = gymnasium.make_vec(ENV_ID, num_envs=count)
        for env in (single, native):
            env.reset(seed=0)
            _seconds(env)  # warm-up
        times = [(_seconds(single), _seconds(native)) for _ in range(REPEATS)]
        slow, fast = (count / statistics.median(column) for column in zip(*times, strict=True))
        table = Table("what", Column("steps/s", justify="right"), "in comparison", box=box.SIMPLE_HEAD)
        table.add_row(f"SyncVectorEnv of {count}", f"{slow:,.0f}")
        faster = f"{fast / slow:.1f} times as fast"
        table.add_row(f"native vector environment of {count}", f"{fast:,.0f}", faster)
        terminal.print(table)
        terminal.print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")


def _seconds(env: gymnasium.vector.VectorEnv[Any, Any, Any]) -> float:
    """Seconds per step of all environments."""
    action = np.full(env.action_space.shape or (), 0.1, dtype=np.float32)
    started = time.perf_counter()
    for _ in range(STEPS):
        env.step(action)
    return (time.perf_counter() - started) / STEPS
