"""What the benchmarks share: timing in turns, ByzFL if it is there, and the round that they time."""

from __future__ import annotations

import importlib
import importlib.metadata
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import byzgym
from byzgym import tasks
from byzgym.simulation import Simulation

# Our name -> the name and the parameters in ByzFL; f is added where it takes one.
BYZFL: dict[str, tuple[str, tuple[str, ...]]] = {
    "mean": ("Average", ()),
    "krum": ("Krum", ("f",)),
    "multi_krum": ("MultiKrum", ("f",)),
    "geometric_median": ("GeometricMedian", ()),
    "median": ("Median", ()),
    "mean_around_median": ("Meamed", ("f",)),
    "trimmed_mean": ("TrMean", ("f",)),
    "caf": ("CAF", ("f",)),
    "monna": ("MoNNA", ("f",)),
    "smea": ("SMEA", ("f",)),
    "brute_force": ("MDA", ("f",)),
    "centered_clipping": ("CenteredClipping", ()),
    "nnm": ("NNM", ("f",)),
    "bucketing": ("Bucketing", ("s",)),
    "static_clipping": ("Clipping", ("c",)),
    "arc": ("ARC", ("f",)),
}

# The round that is measured.
NUM_WORKERS, NUM_BYZANTINE, BATCH_SIZE, WIDTHS = 20, 6, 32, (784, 128, 128, 10)


def medians(
    calls: Mapping[str, Callable[[], Any]], repeats: int, per_turn: Mapping[str, int] | None = None
) -> dict[str, float]:
    """Median seconds of each call, taken in turns so that a busy moment meets all of them.

    Args:
        calls: What to time, by label.
        repeats: Turns of each; one more before them is a warm-up.
        per_turn: How often a call is repeated within a turn (once where it is not named): short ones find
            their own data in the caches, as they would in a loop of their own.
    """
    taken: dict[str, list[float]] = {label: [] for label in calls}
    for repeat in range(repeats + 1):
        for label, call in calls.items():
            times = (per_turn or {}).get(label, 1)
            start = time.perf_counter()
            for _ in range(times):
                call()
            if repeat:
                taken[label].append((time.perf_counter() - start) / times)
    return {label: statistics.median(seconds) for label, seconds in taken.items()}


def load(library: str, console: Console) -> Any:
    """ByzFL or TorchJD, or None and a message why not."""
    try:
        module = importlib.import_module(library)
        if library == "torchjd":
            importlib.import_module("torchjd.aggregation")
    except ImportError as error:
        console.print(f"{library} cannot be imported ({error}): timing without it.")
        return None
    return module


def peak_memory(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> int:
    """Kilobytes that a call takes at its peak, above what its process had before. Linux only.

    A process of its own makes the call with ``prepare(*arguments)``, which is a function of a script.
    """
    context = multiprocessing.get_context("spawn")
    pipe: multiprocessing.Queue[int] = context.Queue()
    process = context.Process(target=_measure_peak, args=(pipe, torch.get_num_threads(), prepare, arguments))
    process.start()
    result = pipe.get()
    process.join()
    return result


def _measure_peak(
    pipe: multiprocessing.Queue[int],
    threads: int,
    prepare: Callable[..., Callable[[], Any]],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(threads)
    call = prepare(*arguments)
    before = _kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    call()
    call()
    pipe.put(_kilobytes("VmHWM") - before)


def _kilobytes(name: str) -> int:
    """What Linux says of this process's memory. (ru_maxrss would be the parent's.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status does not say {name}")


def print_versions(console: Console, *others: str) -> None:
    """What was measured, on what: a table of figures is worth little without it."""
    versions = {"byzgym": byzgym.__version__, "torch": torch.__version__}
    versions |= {name: importlib.metadata.version(name) for name in others}
    parts = [f"{name} {version}" for name, version in versions.items()]
    parts.append(f"Python {platform.python_version()}")
    parts.append(f"{torch.get_num_threads()} threads of {os.cpu_count()} cores")
    console.print(", ".join(parts), highlight=False)


def verdict(reached: bool) -> str:
    """What the column "reached" says."""
    return "[green]yes[/green]" if reached else "[red]no[/red]"


def plain_model(*widths: int) -> torch.nn.Sequential:
    """A multilayer perceptron as anyone would write it."""
    layers: list[torch.nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [torch.nn.Linear(wide, narrow), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def plain_pass(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """One forward and backward pass over all samples at once: what no per-worker gradient can beat by far."""

    def call() -> None:
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(x.flatten(1)), y).backward()

    return call


def mnist_shaped_simulation(attack: str | Mapping[str, Any] = "ipm") -> Simulation:
    """n=20, f=6, B=32, MLP 784-128-128-10 on noise of MNIST's shape and size: nothing to download."""
    if "mnist_shaped_noise" not in tasks.names():
        tasks.register("mnist_shaped_noise", _mnist_shaped_noise)
    return Simulation.make(
        seed=0,
        task="mnist_shaped_noise",
        num_workers=NUM_WORKERS,
        num_byzantine=NUM_BYZANTINE,
        attack=attack,
        batch_size=BATCH_SIZE,
    )


def _mnist_shaped_noise() -> tasks.Task:
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.rand(count, 1, 28, 28, generator=generator)
        return x, torch.randint(WIDTHS[-1], (count,), generator=generator)

    hidden = ",".join(str(width) for width in WIDTHS[1:-1])
    return tasks.Task(draw(60_000), draw(1_000), WIDTHS[-1], f"mlp:{hidden}", learning_rate=0.01)
