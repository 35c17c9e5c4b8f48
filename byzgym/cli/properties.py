"""`byzgym properties`: what rules claim, and what was measured."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from byzgym import aggregation, properties
from byzgym.cli.terminal import Terminal, mistakes
from byzgym.properties import Finding, measure, told
from byzgym.validation import check_int


@dataclass(frozen=True, kw_only=True)
class Properties:
    """Measure what rules claim, and print the worst deviation found beside each claim."""

    rules: tuple[str, ...] = ()
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
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("rule", no_wrap=True)
        for name in ("f", *properties.PROPERTIES, "broken by"):
            table.add_column(name, overflow="fold")
        refuted, left_out = [], []
        for rule in self.rules or aggregation.names():
            with mistakes():
                try:
                    f = told(rule, self.num_workers)
                except ValueError as error:
                    if self.rules:
                        raise
                    left_out.append(str(error))
                    continue
                findings = measure(rule, self.num_workers, self.dimension, self.draws, self.seed)
            (broken,) = [one.broken_by for one in findings if one.name == "breakdown"]
            table.add_row(Text(rule), str(f), *map(_cell, findings), str(broken or "-"))
            refuted += [f"{rule}: {one.name}" for one in findings if one.claimed and one.holds is False]
        terminal.print(table)
        for line in _legend(self.num_workers):
            terminal.print(line)
        for reason in left_out:
            terminal.print(f"Left out: {reason}")
        terminal.print(f"Refuted: {', '.join(refuted)}" if refuted else "No claim was refuted.")


def _cell(finding: Finding) -> Text:
    """What was found, in brackets where it is not claimed, and the worst deviation."""
    if finding.holds is None:
        return Text("f = 0", "dim")
    refuted = finding.claimed and not finding.holds
    said = "REFUTED" if refuted else "yes" if finding.holds else "no"
    text = f"{said if finding.claimed else f'({said})'} {_short(finding.worst)}"
    return Text(text, "bold red" if refuted else "" if finding.claimed else "dim")


def _short(number: float) -> str:
    """A number of one digit: 4e11, 7e-8, 0."""
    return re.sub(r"e\+?(-?)0?", r"e\1", f"{number:.0e}") if number else "0"


def _legend(num_workers: int) -> list[str]:
    return [
        *(f"{name}: {meaning}." for name, meaning in properties.PROPERTIES.items()),
        f"n = {num_workers}; f is what the rule is told, and for breakdown smaller ones, too. In brackets is "
        "what is not claimed. Behind it stands the worst deviation found: in units of the largest entry of "
        f"the submissions (up to {properties.TOLERANCE:.0e} is rounding), and for the last two from the "
        "honest mean, in units of the honest submissions' spread (Byzantine ones are up to "
        f"{properties.SIZES[-1]:.0e} away, and more than {properties.UNBOUNDED:.0e} is without bound). So "
        "many Byzantine workers as the last column says broke the rule, which expected f.",
    ]
