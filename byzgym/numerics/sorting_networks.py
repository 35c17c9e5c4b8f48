"""Programs without branches that compute order statistics over n rows by comparators.

A comparator puts the minimum of two rows into one and their maximum into the other. An order statistic of d
columns thus costs a few hundred elementwise operations on long rows, at the speed of the cache. The programs
come from Parberry's pairwise sorting network ("The Pairwise Sorting Network", 1992), cut down to what the
wanted statistics depend on. It is as large as Batcher's odd-even merge sort, and less of it is left when only
middle ranks are wanted (Zazon-Ivry and Codish, "Pairwise Networks are Superior for Selection").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

Comparator = tuple[int, int]  # (wire that gets the minimum, wire that gets the maximum)


@dataclass(frozen=True)
class Operation:
    """One elementwise operation: ``registers[target] = kind(registers[sources], constant)``."""

    kind: str  # "min", "max", "add", "divide" or "nearer"
    target: int
    sources: tuple[int, ...]
    constant: float = 1.0


@dataclass(frozen=True)
class Program:
    """Operations on registers: 0 to n-1 are the input rows, which are only read; the others are scratch."""

    num_rows: int
    num_registers: int
    operations: tuple[Operation, ...]
    result: int


@lru_cache(maxsize=256)
def median_program(num_rows: int) -> Program:
    """The median of each column; the midpoint of the middle two where n is even."""
    return _program_of_mean(num_rows, _median_ranks(num_rows))


@lru_cache(maxsize=256)
def trimmed_mean_program(num_rows: int, trim: int) -> Program:
    """The mean of each column without its ``trim`` smallest and ``trim`` largest values."""
    return _program_of_mean(num_rows, range(trim, num_rows - trim))


@lru_cache(maxsize=256)
def mean_around_median_program(num_rows: int, keep: int) -> Program:
    """The mean of the ``keep`` values of each column that are nearest to its median.

    In sorted order these are ``keep`` neighbouring ranks, so they hold exactly one rank of each residue class
    modulo ``keep``: the one nearest to the median. Each class is decided by itself, without sums of windows.
    """
    if keep == num_rows:
        return trimmed_mean_program(num_rows, 0)
    median = _median_ranks(num_rows)
    reached = range(max(0, median[0] - keep + 1), min(num_rows, median[-1] + keep))
    alone = [rank for rank in reached if rank - keep not in reached and rank + keep not in reached]
    # What is kept in any case need not be sorted, unless the median is read off it.
    middle = [rank for rank in alone if rank not in median]
    builder = _Builder(num_rows, middle, exact=[r for r in reached if r not in middle])
    center = builder.mean([builder.values[rank] for rank in median])
    kept = []
    for first in reached[: min(keep, len(reached))]:
        nearest = builder.values[first]
        for rank in range(first + keep, reached.stop, keep):
            nearest = builder.append("nearer", center, nearest, builder.values[rank])
        kept.append(nearest)
    return builder.finish(builder.mean(kept))


def _program_of_mean(num_rows: int, ranks: Sequence[int]) -> Program:
    builder = _Builder(num_rows, middle=ranks)
    return builder.finish(builder.mean([builder.values[rank] for rank in ranks]))


def sorting_network(wires: Sequence[int]) -> tuple[list[Comparator], list[int]]:
    """The pairwise sorting network for any number of wires: its comparators, and the wires by rank."""
    if len(wires) <= 1:
        return [], list(wires)
    pairs = list(zip(wires[::2], wires[1::2], strict=False))
    # Depth first, so that a half is sorted while it is in the cache.
    first, low = sorting_network(wires[::2])
    second, high = sorting_network(wires[1::2])
    # Each rank of the larger ones is above the same rank of the smaller ones. It remains to compare it with
    # later ranks of these, at distances that are powers of 2.
    last: list[Comparator] = []
    distance = 1 << (len(low) - 1).bit_length() >> 1
    while distance:
        last += zip(high, low[distance:], strict=False)
        distance //= 2
    order = [wire for pair in zip(low, high, strict=False) for wire in pair] + low[len(high) :]
    return pairs + first + second + last, order


def _prune(comparators: list[Comparator], wanted: Mapping[int, str]) -> list[tuple[int, int, bool, bool]]:
    """Leave out what no wanted output depends on.

    ``wanted`` says for each wire what its final value is for: "exact" for a rank of its own, "dead" for
    nothing, "middle" for a set within which order does not matter. Of the comparators left, each comes with
    whether its minimum and whether its maximum is needed.
    """
    use = dict(wanted)
    left = []
    for low, high in reversed(comparators):
        if use[low] == use[high] != "exact":
            continue
        left.append((low, high, use[low] != "dead", use[high] != "dead"))
        use[low] = use[high] = "exact"
    return left[::-1]


def _median_ranks(num_rows: int) -> tuple[int, ...]:
    return ((num_rows - 1) // 2,) if num_rows % 2 else (num_rows // 2 - 1, num_rows // 2)


class _Builder:
    """Collects operations on values, each written once, and at the end assigns them to registers.

    The input rows are values 0 to n-1. The order of the ``middle`` ranks among themselves does not matter;
    the ``exact`` ones are needed each for itself.
    """

    def __init__(self, num_rows: int, middle: Iterable[int], exact: Iterable[int] = ()) -> None:
        self.num_rows = num_rows
        self.steps: list[tuple[str, tuple[int, ...], float]] = []
        comparators, order = sorting_network(range(num_rows))
        wanted = dict.fromkeys(order, "dead")
        wanted.update({order[rank]: "middle" for rank in middle})
        wanted.update({order[rank]: "exact" for rank in exact})
        held = list(range(num_rows))  # the value on each wire
        for low, high, needs_min, needs_max in _prune(comparators, wanted):
            a, b = held[low], held[high]
            if needs_min:
                held[low] = self.append("min", a, b)
            if needs_max:
                held[high] = self.append("max", a, b)
        self.values = [held[wire] for wire in order]  # by rank

    def append(self, kind: str, *sources: int, constant: float = 1.0) -> int:
        self.steps.append((kind, sources, constant))
        return self.num_rows + len(self.steps) - 1

    def mean(self, values: list[int]) -> int:
        total = values[0]
        for value in values[1:]:
            total = self.append("add", total, value)
        return total if len(values) == 1 else self.append("divide", total, constant=float(len(values)))

    def finish(self, result: int) -> Program:
        """Assign registers, taking the one freed last, which is the likeliest to be in the cache."""
        last_use = {source: step for step, (_, sources, _) in enumerate(self.steps) for source in sources}
        register = {row: row for row in range(self.num_rows)}
        free: list[int] = []
        num_registers = self.num_rows
        operations = []
        for step, (kind, sources, constant) in enumerate(self.steps):
            read = tuple(register[source] for source in sources)
            free += {
                register[source]
                for source in sources
                if source >= self.num_rows and source != result and last_use[source] == step
            }
            if not free:
                free.append(num_registers)
                num_registers += 1
            target = free.pop()
            register[self.num_rows + step] = target
            operations.append(Operation(kind, target, read, constant))
        return Program(self.num_rows, num_registers, tuple(operations), register[result])
