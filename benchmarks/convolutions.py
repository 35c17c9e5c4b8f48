"""Per-worker gradients of convolutional models, beside a plain loop that calls backward once for each worker.

Usage: python benchmarks/convolutions.py
Results: benchmarks/README.md

Each contestant computes the gradients of n workers at the same parameters into an [n, d] tensor. Time is a
median over turns in one process. Memory is what a process of its own takes at its peak, above what it had
when model and data were there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from _timing import medians, peak_memory
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from byzgym.simulation.gradients import engine_for
from byzgym.tasks import models

CASES = (
    ("xie_cnn", 20, 32),
    ("xie_cnn", 20, 128),
    ("resnet18", 8, 32),
    ("lenet", 10, 32),
    ("lenet", 10, 4),
)
"""Model, n and B, for inputs of CIFAR's size."""
CONTESTANTS = ("loop", "byzgym", "vmap")


@dataclass
class Config:
    """Time the cases."""

    threads: tuple[int, ...] = (1, 2)
    """Threads of torch, one table for each."""
    repeats: int = 5
    """Turns of each contestant, after one that warms up."""
    models: tuple[str, ...] = ()
    """Only these models; all where empty."""


def contestants(name: str, num_workers: int, batch_size: int) -> dict[str, Callable[[], object]]:
    """The ways of computing the same gradients."""
    generator = torch.Generator().manual_seed(0)
    module = models.build(name, (3, 32, 32), 10, generator)
    x = torch.randn(1, num_workers, batch_size, 3, 32, 32, generator=generator)
    y = torch.randint(10, x.shape[:3], generator=generator)
    theta = nn.utils.parameters_to_vector(module.parameters()).detach()[None]
    out = torch.empty(1, num_workers, theta.shape[1])
    few = module, x[0, 0, :2], y[0, 0, :2]
    ours, vmap = engine_for(*few), engine_for(*few, one_by_one=False)
    return {
        "loop": lambda: loop(module, x[0], y[0], out[0]),
        "byzgym": lambda: ours.gradients(theta, x, y, [generator], out),
        "vmap": lambda: vmap.gradients(theta, x, y, [generator], out),
    }


def loop(module: nn.Module, x: Tensor, y: Tensor, out: Tensor) -> None:
    """What anybody would write."""
    for inputs, labels, row in zip(x, y, out, strict=True):
        module.zero_grad()
        F.cross_entropy(module(inputs), labels).backward()
        torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None], out=row)


def peak_of(name: str, num_workers: int, batch_size: int, contestant: str) -> Callable[[], object]:
    """A call for `peak_memory`."""
    return contestants(name, num_workers, batch_size)[contestant]


def main(config: Config) -> None:
    """Print a table for each number of threads."""
    for threads in config.threads:
        torch.set_num_threads(threads)
        table = Table(
            "model", "n", "B", "loop ms", "byzgym / loop", "vmap / loop", "byzgym memory", "vmap memory"
        )
        for case in CASES:
            if config.models and case[0] not in config.models:
                continue
            times = medians(contestants(*case), config.repeats)
            taken = {name: peak_memory(peak_of, *case, name) for name in CONTESTANTS}
            ratios = [times[name] / times["loop"] for name in ("byzgym", "vmap")]
            sizes = [taken[name] / max(1, taken["loop"]) for name in ("byzgym", "vmap")]
            table.add_row(
                case[0], *map(str, case[1:]), f"{1000 * times['loop']:.0f}",
                *(f"{value:.2f}" for value in (*ratios, *sizes)),
            )  # fmt: skip
        Console(width=110).print(table, f"threads: {threads}, torch {torch.__version__}")


if __name__ == "__main__":
    main(tyro.cli(Config))
