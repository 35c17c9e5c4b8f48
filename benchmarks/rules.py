"""The rules beside ByzFL's: medians of repeated calls in one process, and how many times faster.

    pip install byzfl==0.0.11 seaborn
    python benchmarks/rules.py
    python benchmarks/rules.py --sizes 20x118000 --repeats 20

Each rule is timed on standard normal submissions [n, d], alternating with ByzFL's of the same name, with
f = floor(0.3 n) as far as the rule accepts it. ByzFL's definitions differ in details (Krum's number of
neighbours, a fixed number of steps for the geometric median); where it has no such rule, or one that
cannot finish at this size, there is a dash. Compare ratios: times are those of your machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from _timing import BYZFL, load_byzfl, medians, print_versions
from rich.console import Console
from rich.table import Table

from byzgym import aggregation

SIZES = [(20, 118_000), (50, 1_000_000)]  # workers, dimension
COORDINATE_WISE = ("median", "trimmed_mean", "mean_around_median")
OF_SUBMISSIONS = [name for name in aggregation.names() if not aggregation.make(name).needs]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the rules beside ByzFL's.")
    parser.add_argument("--sizes", nargs="+", type=size, default=SIZES, metavar="NxD")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rules", nargs="+", default=OF_SUBMISSIONS, metavar="RULE")
    parser.add_argument("--compiled", action="store_true", help="also the compiled coordinate-wise rules")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    console = Console()
    byzfl = load_byzfl(console)
    print_versions(console, *(["byzfl"] if byzfl else []))
    for num_workers, dimension in arguments.sizes:
        table = Table("rule", "f", "ms", "ByzFL ms", "times faster", title=f"n={num_workers}, d={dimension}")
        gradients = torch.randn(num_workers, dimension, generator=torch.Generator().manual_seed(0))
        for name in arguments.rules:
            for row in compare(name, gradients, byzfl, arguments.repeats, arguments.compiled):
                table.add_row(*row)
        console.print(table)


def size(text: str) -> tuple[int, int]:
    """Parse "20x118000"; argparse reports a ValueError as a wrong argument."""
    num_workers, dimension = text.split("x")
    return int(num_workers), int(dimension)


def compare(
    name: str, gradients: torch.Tensor, byzfl: Any, repeats: int, compiled: bool
) -> list[tuple[str, ...]]:
    """The rows of the table for one rule."""
    num_workers = len(gradients)
    rule = aggregation.make_for(name, num_workers, int(0.3 * num_workers))
    f = rule.num_byzantine  # less where the rule accepts less
    calls = {name: rule}
    if compiled and name in COORDINATE_WISE:
        calls[f"{name} (compiled)"] = aggregation.make(name, num_byzantine=f, compiled=True)
    theirs = byzfl_rule(byzfl, name, f)
    if theirs is not None:
        calls["ByzFL"] = theirs
    seconds = medians({label: partial(call, gradients) for label, call in calls.items()}, repeats)
    reference = seconds.pop("ByzFL", None)
    rows: list[tuple[str, ...]] = []
    for label, ours in seconds.items():
        row = (label, str(f), f"{1e3 * ours:.2f}")
        rows.append(
            (*row, f"{1e3 * reference:.1f}", f"{reference / ours:.1f}") if reference else (*row, "-", "-")
        )
    return rows


def byzfl_rule(byzfl: Any, name: str, f: int) -> Callable[[torch.Tensor], Any] | None:
    class_name, parameters = BYZFL.get(name, ("", ()))
    if byzfl is None or not class_name:
        return None
    rule: Callable[[torch.Tensor], Any] = getattr(byzfl, class_name)(
        **({"f": f} if "f" in parameters else {})
    )
    return rule


if __name__ == "__main__":
    main()
