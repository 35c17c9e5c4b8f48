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
from rich.table import Table
from torch import nn

from byzgym.cli.terminal import Terminal, mistakes
from byzgym.envs import ENV_ID
from byzgym.simulation import Simulation
from byzgym.validation import check_int

REPEATS = 5
"""Alternating measurements, of which the median counts."""

Line = tuple[str, str, str]
"""What was measured, the number with its unit, and what that is in comparison."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure speed in a few seconds: steps per second, and a round beside a plain training step."""

    num_envs: int = 64
    """Environments side by side, at least 1."""

    def run(self, terminal: Terminal) -> None:
        """Measure and tabulate."""
        with mistakes():
            check_int("num_envs", self.num_envs, low=1)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("what", "speed", "in comparison"):
            table.add_column(heading, justify="right" if heading == "speed" else "left")
        for line in (*environment_speed(self.num_envs), *round_speed()):
            table.add_row(*line)
        terminal.print(table)
        terminal.print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")


def environment_speed(num_envs: int) -> list[Line]:
    """Environment steps per second of the native vector environment and of as many single ones."""
    native = gymnasium.make_vec(ENV_ID, num_envs=num_envs)
    single = gymnasium.make_vec(ENV_ID, num_envs=num_envs, vectorization_mode="sync")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    plain = _training_step(model, num_envs * 320, 64)
    seconds = _alternating([(_stepper(native), 20), (_stepper(single), 1), (plain, 20)])
    native.close()
    single.close()
    fast, slow, bound = (num_envs / value for value in seconds)
    return [
        (f"forward and backward of the samples of {num_envs} environments", f"{bound:,.0f} steps/s", ""),
        (
            f"native vector environment, {num_envs} environments",
            f"{fast:,.0f} steps/s",
            f"{fast / bound:.0%} of that",
        ),
        (
            f"SyncVectorEnv of {num_envs} single environments",
            f"{slow:,.0f} steps/s",
            f"native is {fast / slow:.1f} times as fast",
        ),
    ]


def round_speed() -> list[Line]:
    """A full round (20 workers, batch 32, MLP 784-128-128-10, mean) and a plain step on the same samples."""
    task = {"name": "synthetic", "num_samples": 1000, "num_features": 784, "num_classes": 10}
    simulation = Simulation.make(
        task=task, model="mlp:128,128", num_workers=20, num_byzantine=6, attack="ipm", batch_size=32, seed=0
    )

    def play() -> None:
        simulation.apply(simulation.gradients.mean(1))

    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    full, plain = _alternating([(play, 20), (_training_step(model, 640, 784), 20)])
    return [
        ("forward and backward of 640 samples, MLP 784-128-128-10", f"{1e3 * plain:.2f} ms", ""),
        (
            "full round of 20 workers on as many, attack ipm, rule mean",
            f"{1e3 * full:.2f} ms",
            f"{full / plain:.2f} times as long",
        ),
    ]


def _training_step(model: nn.Module, samples: int, features: int) -> Callable[[], None]:
    """One forward and backward pass."""
    x, y = torch.rand(samples, features), torch.randint(10, (samples,))

    def step() -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(nn.functional.cross_entropy(model(x), y))

    return step


def _stepper(env: gymnasium.vector.VectorEnv[Any, Any, Any]) -> Callable[[], Any]:
    env.reset(seed=0)
    action = np.full(env.action_space.shape or (), 0.1, dtype=np.float32)
    return lambda: env.step(action)


def _alternating(functions: list[tuple[Callable[[], Any], int]]) -> list[float]:
    """Median seconds per call, measured in turns of some calls, so that a disturbance meets all."""
    taken: list[list[float]] = [[] for _ in functions]
    for function, _ in functions:
        function()
    for _ in range(REPEATS):
        for times, (function, calls) in zip(taken, functions, strict=True):
            started = time.perf_counter()
            for _ in range(calls):
                function()
            times.append((time.perf_counter() - started) / calls)
    return [statistics.median(times) for times in taken]
