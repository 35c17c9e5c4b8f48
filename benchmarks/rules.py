"""Rules and pre-aggregators beside those of ByzFL and TorchJD: medians of repeated calls in one process.

    pip install -e ".[bench]"
    python benchmarks/rules.py
    python benchmarks/rules.py --sizes 20x118000 --repeats 20

Each is timed on standard normal submissions [n, d], in turns with those of the other libraries, with
f = floor(0.3 n) as far as the rule accepts it, and f = 1 where the cost is exponential in f. Definitions
differ in details (Krum's number of neighbours, a fixed number of steps for the geometric median, one step of
power iteration for smea and caf in ByzFL). ByzFL's clipping changes what it is given, so it gets a copy. A
dash stands where a library has no such rule. Compare ratios: times are those of your machine.

Memory is what a process of its own takes at its peak during a call, above what it had before, in units of
the submissions' n d numbers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from _timing import BYZFL, load, medians, peak_memory, print_versions
from rich.console import Console
from rich.table import Table
from torch import Tensor

from byzgym import aggregation
from byzgym.aggregation import ServerView, pre
from byzgym.memory import Memory

SIZES = [(20, 118_000), (50, 1_000_000)]  # workers, dimension
COORDINATE_WISE = ("median", "trimmed_mean", "mean_around_median")
NAMES = [
    *(name for name in aggregation.names() if "qv" not in aggregation.make_for(name, 99, 1).needs),
    *pre.names(),
]
OVERWRITING = ("Clipping", "ARC")
"""Rules of ByzFL that change what they are given, and would find nothing to do the next time."""
Call = Callable[[Tensor], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time rules and pre-aggregators beside other libraries'.")
    parser.add_argument("--sizes", nargs="+", type=size, default=SIZES, metavar="NxD")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rules", nargs="+", default=NAMES, choices=NAMES, metavar="NAME")
    parser.add_argument("--compiled", action="store_true", help="also the compiled coordinate-wise rules")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    console = Console()
    others = {name: module for name in ("byzfl", "torchjd") if (module := load(name, console))}
    print_versions(console, *others)
    for num_workers, dimension in arguments.sizes:
        table = Table(
            "rule", "f", "ms", "ByzFL ms", "TorchJD ms", "times faster", "memory",
            title=f"n={num_workers}, d={dimension}",
        )  # fmt: skip
        gradients = normal(num_workers, dimension)
        for name in arguments.rules:
            for row in compare(name, gradients, others, arguments.repeats, arguments.compiled):
                table.add_row(*row)
        console.print(table)


def size(text: str) -> tuple[int, int]:
    """Parse "20x118000"; argparse reports a ValueError as a wrong argument."""
    num_workers, dimension = text.split("x")
    return int(num_workers), int(dimension)


def normal(num_workers: int, dimension: int) -> Tensor:
    """The submissions [n, d]."""
    return torch.randn(num_workers, dimension, generator=torch.Generator().manual_seed(0))


def compare(
    name: str, gradients: Tensor, others: dict[str, Any], repeats: int, compiled: bool
) -> list[tuple[str, ...]]:
    """The rows of the table for one rule or pre-aggregator."""
    ours, f = our_call(name, len(gradients))
    calls = {name: ours}
    if compiled and name in COORDINATE_WISE:
        calls[f"{name} (compiled)"] = aggregation.make(name, num_byzantine=f, compiled=True)
    calls |= {label: call for label in others if (call := their_call(label, others[label], name, f))}
    seconds = medians({label: partial(call, gradients) for label, call in calls.items()}, repeats)
    theirs = [seconds.pop(label, None) for label in ("byzfl", "torchjd")]
    memory = peak_memory(peak_of_rule, name, *gradients.shape) / (gradients.nbytes / 1024)
    fastest = min((taken for taken in theirs if taken), default=None)
    return [
        (
            label,
            str(f),
            milliseconds(taken),
            *map(milliseconds, theirs),
            f"{fastest / taken:.1f}" if fastest else "-",
            f"{memory:.1f}",
        )
        for label, taken in seconds.items()
    ]


def milliseconds(seconds: float | None) -> str:
    """What a cell shows."""
    return "-" if seconds is None else f"{1e3 * seconds:.2f}"


def our_call(name: str, num_workers: int) -> tuple[Call, int]:
    """A rule or pre-aggregator, and its f, which is less where it accepts less."""
    f = int(0.3 * num_workers)
    if name in pre.names():
        return pre.make_from(name, f), f
    rule = aggregation.make_for(name, num_workers, f)
    if rule.exponential:
        rule = aggregation.make_for(name, num_workers, 1)
    return (on_views(rule) if rule.needs else rule), rule.num_byzantine


def on_views(rule: aggregation.Rule) -> Call:
    """A rule with a memory, called with the submissions of round after round."""
    memory = Memory(1)

    def call(gradients: Tensor) -> Tensor:
        rows = gradients[None]
        return rule.aggregate(ServerView(rows, torch.zeros_like(rows[:, 0]), 0.1, None, memory=memory))

    return call


def their_call(library: str, module: Any, name: str, f: int) -> Call | None:
    """The rule of another library, None where it has none."""
    if library == "torchjd":
        rules = module.aggregation
        made = {
            "mean": lambda: rules.Mean(),
            "krum": lambda: rules.Krum(n_byzantine=f),
            "trimmed_mean": lambda: rules.TrimmedMean(trim_number=f),
        }.get(name)
        return made() if made else None
    class_name, parameters = BYZFL.get(name, ("", ()))
    known = {"f": f, "s": 2, "c": 1.0}
    if not class_name:
        return None
    rule: Call = getattr(module, class_name)(**{parameter: known[parameter] for parameter in parameters})
    if class_name in OVERWRITING:
        return lambda gradients: rule(gradients.clone())
    return rule


def peak_of_rule(name: str, num_workers: int, dimension: int) -> Callable[[], Any]:
    """A call for `peak_memory`."""
    gradients, (call, _) = normal(num_workers, dimension), our_call(name, num_workers)
    return lambda: call(gradients)


if __name__ == "__main__":
    sys.exit(main())
