"""`byzgym bench`: a short check of speed, in ratios that a machine's load hardly changes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

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


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure speed in a few seconds: steps per second, and a round beside a plain training step."""

    num_envs: int = 64
    """Environments side by side, at least 1."""

    def run(self, terminal: Terminal) -> None:
        """Measure and tabulate."""
        with mistakes():
            measured = [*environment_speed(self.num_envs), *round_speed()]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("what", "speed", "in comparison"):
            table.add_column(heading, justify="right" if heading == "speed" else "left")
        for line in measured:
            table.add_row(*line)
        terminal.print(table)
        terminal.print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")


class Speed(NamedTuple):
    """One line of the table: what was measured, the number with its unit, and what that is in comparison."""

    what: str
    value: str
    comparison: str


def environment_speed(num_envs: int, repeats: int = 5) -> list[Speed]:
    """Environment steps per second of the native vector environment and of as many single ones.

    Args:
        num_envs: At least 1.
        repeats: Alternating measurements, of which the median counts.
    """
    check_int("num_envs", num_envs, low=1)
    native = gymnasium.make_vec(ENV_ID, num_envs=num_envs)
    single = gymnasium.make_vec(ENV_ID, num_envs=num_envs, vectorization_mode="sync")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    steps = {
        "native": _stepper(native),
        "single": _stepper(single),
        "plain": _plain(model, num_envs * 320, 64),
    }
    seconds = _alternating(steps, {"native": 20, "single": 1, "plain": 20}, repeats)
    native.close()
    single.close()
    rate = {name: num_envs / value for name, value in seconds.items()}
    return [
        Speed(
            f"forward and backward of the samples of {num_envs} environments",
            f"{rate['plain']:,.0f} steps/s",
            "",
        ),
        Speed(
            f"native vector environment, {num_envs} environments",
            f"{rate['native']:,.0f} steps/s",
            f"{rate['native'] / rate['plain']:.0%} of that",
        ),
        Speed(
            f"SyncVectorEnv of {num_envs} single environments",
            f"{rate['single']:,.0f} steps/s",
            f"native is {rate['native'] / rate['single']:.1f} times as fast",
        ),
    ]


def round_speed(repeats: int = 5) -> list[Speed]:
    """A full round (20 workers, batch 32, MLP 784-128-128-10, mean) and a plain step on the same samples."""
    task = {"name": "synthetic", "num_samples": 1000, "num_features": 784, "num_classes": 10}
    simulation = Simulation.make(
        task=task, model="mlp:128,128", num_workers=20, num_byzantine=6, attack="ipm", batch_size=32, seed=0
    )

    def full() -> None:
        simulation.apply(simulation.gradients.mean(1))

    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    steps = {"full": full, "plain": _plain(model, 640, 784)}
    seconds = _alternating(steps, {"full": 20, "plain": 20}, repeats)
    return [
        Speed(
            "forward and backward of 640 samples, MLP 784-128-128-10", f"{1e3 * seconds['plain']:.2f} ms", ""
        ),
        Speed(
            "full round of 20 workers on as many, attack ipm, rule mean",
            f"{1e3 * seconds['full']:.2f} ms",
            f"{seconds['full'] / seconds['plain']:.2f} times as long",
        ),
    ]


def _plain(model: nn.Module, samples: int, features: int) -> Callable[[], None]:
    """One forward and backward pass."""
    x, y = torch.rand(samples, features), torch.randint(10, (samples,))

    def step() -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(nn.functional.cross_entropy(model(x), y))

    return step


def _stepper(env: gymnasium.vector.VectorEnv[Any, Any, Any]) -> Callable[[], None]:
    env.reset(seed=0)
    action = np.full(env.action_space.shape or (), 0.1, dtype=np.float32)

    def step() -> None:
        env.step(action)

    return step


def _alternating(
    functions: dict[str, Callable[[], None]], calls: dict[str, int], repeats: int
) -> dict[str, float]:
    """Median seconds per call, measured in turns, so that a disturbance meets all of them."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            started = time.perf_counter()
            for _ in range(calls[name]):
                function()
            taken[name].append((time.perf_counter() - started) / calls[name])
    return {name: statistics.median(values) for name, values in taken.items()}
