"""`byzgym properties`: what rules claim, and what was measured."""

from __future__ import annotations

import re
from dataclasses import dataclass

import tyro
from rich import box
from rich.table import Table
from rich.text import Text

from byzgym import aggregation, properties
from byzgym.cli.terminal import Terminal, mistakes
from byzgym.properties import Finding, measure, told
from byzgym.validation import check_int

WIDE = 112
"""Columns of the terminal from which a finding and its deviation stand in one line."""


@dataclass(frozen=True, kw_only=True)
class Properties:
    """Measure what rules claim, and print the worst deviation found beside each claim."""

    rules: tyro.conf.Positional[tuple[str, ...]] = ()
    """Rules, such as krum or `nnm+krum`; all that have a name where none is given."""
    num_workers: int = 11
    """Number n of submissions; every rule is told the largest f that it accepts (less where its cost is
    exponential in f)."""
    dimension: int = 20
    """Length d of the submissions."""
    draws: int = 20
    """Sets of submissions that are drawn for each measurement."""
    seed: int = 0
    """Of the draws."""

    def run(self, terminal: Terminal) -> None:
        """Measure and tabulate."""
        with mistakes():
            check_int("num_workers", self.num_workers, low=1)
        found: dict[str, tuple[int, list[Finding]]] = {}
        left_out = []
        rules = self.rules or aggregation.names()
        with terminal.progress(len(rules)) as show:
            for rule in rules:
                show(rule, 0)
                with mistakes():
                    try:
                        f = told(rule, self.num_workers)
                    except ValueError as error:
                        if self.rules:
                            raise
                        left_out.append(str(error))
                        continue
                    finally:
                        show(rule, 1)
                    found[rule] = f, measure(rule, self.num_workers, self.dimension, self.draws, self.seed)
        terminal.print(_table(found, "  " if terminal.console.width >= WIDE else "\n"))
        for line in _legend(self.num_workers):
            terminal.print(line)
        for reason in left_out:
            terminal.print(f"Left out: {reason}")
        refuted = [
            f"{rule}: {one.name}" for rule, (_, findings) in found.items() for one in findings if one.refuted
        ]
        terminal.print(f"Refuted: {', '.join(refuted)}" if refuted else "No claim was refuted.")


def _table(found: dict[str, tuple[int, list[Finding]]], between: str) -> Table:
    """A line for each rule, with ``between`` what was found and the worst deviation."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("rule", overflow="fold", min_width=10)
    for heading in ("f", "permu-\ntation", "trans-\nlation", "scale", "hull", "break-\ndown"):
        table.add_column(heading, no_wrap=True)
    table.add_column("dimen-\nsional", no_wrap=True)
    table.add_column("broken\nby", no_wrap=True)
    for rule, (f, findings) in found.items():
        (broken,) = [one.broken_by for one in findings if one.name == "breakdown"]
        cells = [_cell(one, between) for one in findings]
        table.add_row(Text(rule), str(f), *cells, str(broken or "-"))
    return table


def _cell(finding: Finding, between: str) -> Text:
    """What was found, in brackets where it is not claimed, and the worst deviation."""
    if finding.holds is None:
        return Text("ties" if finding.name in properties.CAN_TIE else "f = 0", "dim")
    said = "REFUTED" if finding.refuted else "yes" if finding.holds else "no"
    text = f"{said if finding.claimed else f'({said})'}{between}{_short(finding.worst)}"
    return Text(text, "bold red" if finding.refuted else "" if finding.claimed else "dim")


def _short(number: float) -> str:
    """A number of one digit: 4e11, 7e-8, 0."""
    return re.sub(r"e\+?(-?)0?", r"e\1", f"{number:.0e}") if number else "0"


def _legend(num_workers: int) -> list[str]:
    return [
        *(f"{name}: {meaning}." for name, meaning in properties.PROPERTIES.items()),
        "",
        f"n = {num_workers}, and f is what a rule is told (for breakdown, smaller numbers as well). "
        "What a rule does not claim is in brackets. The number is the worst deviation found. It is in units "
        f"of the largest entry of the submissions for the first four ({properties.TOLERANCE:.0e} counts as "
        "rounding). For the other two it is the distance from the honest mean, in units of the spread of "
        f"honest submissions: Byzantine ones are up to {properties.SIZES[-1]:.0e} away, and more than "
        f"{properties.UNBOUNDED:.0e} counts as without bound. The last column says how many Byzantine "
        "workers broke the rule when it was told f.",
    ]
