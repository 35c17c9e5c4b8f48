"""`byzgym bench`: a short check of speed, in ratios that a machine's load hardly changes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from rich import box
from rich.table import Column, Table
from torch import nn

from byzgym.cli.terminal import Terminal, mistakes
from byzgym.envs import ENV_ID
from byzgym.validation import check_int

REPEATS = 5
"""Alternating measurements, of which the median counts."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure the steps per second of the environment in a few seconds."""

    num_envs: int = 64
    """Environments side by side, at least 1."""

    def run(self, terminal: Terminal) -> None:
        """Measure and tabulate."""
        with mistakes():
            count = check_int("num_envs", self.num_envs, low=1)
        native = gymnasium.make_vec(ENV_ID, num_envs=count)
        single = gymnasium.make_vec(ENV_ID, num_envs=count, vectorization_mode="sync")
        calls = [(_stepper(native), 20), (_stepper(single), 1), (_training_step(count * 320), 20)]
        fast, slow, plain = (count / seconds for seconds in _median_seconds(calls))
        table = Table("what", Column("steps/s", justify="right"), "in comparison", box=box.SIMPLE_HEAD)
        table.add_row("forward and backward of the same samples", f"{plain:,.0f}")
        of_that, times = f"{fast / plain:.0%} of that", f"native is {fast / slow:.1f} times as fast"
        table.add_row(f"native vector environment of {count}", f"{fast:,.0f}", of_that)
        table.add_row(f"SyncVectorEnv of {count}", f"{slow:,.0f}", times)
        terminal.print(table)
        terminal.print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")


def _stepper(env: gymnasium.vector.VectorEnv[Any, Any, Any]) -> Callable[[], Any]:
    env.reset(seed=0)
    action = np.full(env.action_space.shape or (), 0.1, dtype=np.float32)
    return lambda: env.step(action)


def _training_step(samples: int) -> Callable[[], None]:
    """One forward and backward pass of the default task's model."""
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    x, y = torch.rand(samples, 64), torch.randint(10, (samples,))

    def step() -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(nn.functional.cross_entropy(model(x), y))

    return step


def _median_seconds(functions: list[tuple[Callable[[], Any], int]]) -> list[float]:
    """Median seconds per call, measured in turns of some calls, so that a disturbance meets all."""
    taken: list[list[float]] = [[] for _ in functions]
    for repeat in range(REPEATS + 1):  # the first one is a warm-up
        for times, (function, calls) in zip(taken, functions, strict=True):
            started = time.perf_counter()
            for _ in range(calls if repeat else 1):
                function()
            times.append((time.perf_counter() - started) / calls)
    return [statistics.median(times[1:]) for times in taken]
