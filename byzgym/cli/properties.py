"""`byzgym properties`: what rules claim, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from byzgym import aggregation, properties
from byzgym.cli.terminal import Terminal, mistakes
from byzgym.properties import Finding, measure, told


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
        table = Table("rule", "f", *properties.PROPERTIES, box=box.SIMPLE_HEAD, pad_edge=False)
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
            table.add_row(Text(rule), str(f), *map(_cell, findings))
            refuted += [f"{rule}: {one.name}" for one in findings if one.claimed and one.holds is False]
        terminal.print(table)
        for line in _legend(self.num_workers):
            terminal.print(line)
        for reason in left_out:
            terminal.print(f"Left out: {reason}")
        terminal.print(f"Refuted: {', '.join(refuted)}" if refuted else "No claim was refuted.")


def _cell(finding: Finding) -> Text:
    """A claim, what was found, and the worst deviation."""
    said = {True: "holds", False: "REFUTED" if finding.claimed else "no", None: "f = 0"}[finding.holds]
    text = f"{'+' if finding.claimed else '-'} {said}"
    if finding.holds is not None:
        text += f" {finding.worst:.0e}"
    if finding.name == "breakdown" and finding.broken_by is not None:
        text += f", {finding.broken_by} break it"
    style = "dim" if not finding.claimed else "bold red" if finding.holds is False else ""
    return Text(text, style)


def _legend(num_workers: int) -> list[str]:
    lines = [f"{name}: {meaning}." for name, meaning in properties.PROPERTIES.items()]
    return [
        *lines,
        f"+ is claimed, - is not; n = {num_workers}, f what the rule is told, and for breakdown smaller ones, "
        "too. Beside it the worst deviation found: in units of the largest entry of the "
        f"submissions ({properties.TOLERANCE:.0e} passes), or from the honest mean in units of the honest "
        f"submissions' spread (below {properties.UNBOUNDED:.0e} passes, where Byzantine ones are "
        f"{properties.SIZES[-1]:.0e} away).",
    ]
