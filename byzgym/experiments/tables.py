"""The table of policies x attacks, built once and shown in a terminal, in Markdown and in HTML."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from byzgym.experiments.records import Records
from byzgym.experiments.statistics import Summary, summarise

DIVERGED = "†"
_MARKS = "¹²³⁴⁵⁶⁷⁸⁹"
_GAP = 3  # between two columns of the terminal's table


@dataclass(frozen=True)
class Cell:
    """What stands in one place of the table.

    Attributes:
        text: Mean and spread.
        best: Whether no other policy is better, references aside.
        diverged: Whether a run diverged.
    """

    text: str
    best: bool = False
    diverged: bool = False

    @property
    def marked(self) -> str:
        """The text with the mark of diverged runs."""
        return self.text + DIVERGED if self.diverged else self.text


@dataclass
class Row:
    """One policy: its name with the mark of its footnote, and a cell per attack."""

    policy: str
    mark: str
    cells: list[Cell]
    reference: bool


@dataclass
class AccuracyTable:
    """Accuracy of policies (rows) under attacks (columns) at one number of Byzantine workers.

    Attributes:
        title: What was played.
        attacks: The column headings.
        rows: The policies, references last.
        footnotes: What the marks mean, in order.
        caption: How to read a cell.
    """

    title: str
    attacks: list[str]
    rows: list[Row] = field(default_factory=list)
    footnotes: list[str] = field(default_factory=list)
    caption: str = ""


def accuracy_table(records: Records, num_byzantine: int) -> AccuracyTable:
    """Build the table for one number of Byzantine workers from what has been played."""
    comparison = records.comparison
    played = set(records.results["policy"][records.results["num_byzantine"] == num_byzantine])
    policies = [policy for policy in comparison.policies if policy in played]
    summaries = {
        (policy, attack): summarise(records.results, policy, attack, num_byzantine)
        for policy in policies
        for attack in comparison.attacks
    }
    best = {attack: _best(records, policies, attack, summaries) for attack in comparison.attacks}
    marks, footnotes = _footnotes(records, played, num_byzantine)
    table = AccuracyTable(
        title=f"{comparison.task}, {comparison.workers(num_byzantine)}",
        attacks=list(comparison.attacks),
        footnotes=footnotes,
        caption=_caption(records),
    )
    for policy in sorted(policies, key=lambda policy: policy in records.references):
        cells = [_cell(summaries[policy, attack], policy in best[attack]) for attack in comparison.attacks]
        table.rows.append(Row(policy, marks.get(policy, ""), cells, policy in records.references))
    if any(summary is not None and summary.diverged for summary in summaries.values()):
        table.footnotes.append(
            f"{DIVERGED} a run diverged: parameters not finite, or a QV loss at the end 1000 times that "
            "at the start"
        )
    return table


def for_terminal(table: AccuracyTable, width: int) -> RenderableType:
    """The table for a terminal; as many attacks side by side as ``width`` columns have room for."""
    names = [_full_name(row) for row in table.rows]
    parts: list[RenderableType] = [Text(table.title, style="bold")]
    left = list(range(len(table.attacks)))
    while left:
        used = max([len("policy"), *map(len, names)])
        chosen: list[int] = []
        while left and (not chosen or used + _width(table, left[0]) + _GAP <= width):
            used += _width(table, left[0]) + _GAP
            chosen.append(left.pop(0))
        parts += [Text(), _rich(table, names, chosen)]
    notes = [line for line in (table.caption, *table.footnotes) if line]
    return Group(*parts, Text(), *(Text(line, style="dim") for line in notes))


def show(records: Records, console: Console) -> None:
    """Print the tables of all numbers of Byzantine workers."""
    for num_byzantine in records.comparison.num_byzantine:
        table = accuracy_table(records, num_byzantine)
        if table.rows:
            console.print()
            console.print(for_terminal(table, console.width))


def percent(mean: float, std: float) -> str:
    """Accuracy in percent with its spread, where that is known."""
    return f"{100 * mean:.1f}" if math.isnan(std) else f"{100 * mean:.1f} ± {100 * std:.1f}"


def _full_name(row: Row) -> str:
    return f"{row.policy} {row.mark}".strip() + (" (reference)" if row.reference else "")


def _rich(table: AccuracyTable, names: list[str], chosen: list[int]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    shown.add_column("policy", no_wrap=True)
    for column in chosen:
        shown.add_column(Text(_aligned(table, column, table.attacks[column], " ")), no_wrap=True)
    for number, (name, row) in enumerate(zip(names, table.rows, strict=True)):
        if row.reference and number and not table.rows[number - 1].reference:
            shown.add_section()
        cells = [row.cells[column] for column in chosen]
        texts = [
            Text(
                _aligned(table, column, cell.text, DIVERGED if cell.diverged else " "),
                style="bold green" if cell.best else "",
            )
            for column, cell in zip(chosen, cells, strict=True)
        ]
        # Texts, as strings would be markup: names may hold brackets.
        shown.add_row(Text(name), *texts, style="italic" if row.reference else "")
    return shown


def _aligned(table: AccuracyTable, column: int, text: str, mark: str) -> str:
    """The text to the right of its column, with a place for the mark behind it where the column needs one."""
    marked = any(row.cells[column].diverged for row in table.rows)
    return text.rjust(_width(table, column) - marked) + (mark if marked else "")


def _width(table: AccuracyTable, column: int) -> int:
    marked = any(row.cells[column].diverged for row in table.rows)
    return max(len(table.attacks[column]), *(len(row.cells[column].text) for row in table.rows)) + marked


def _cell(summary: Summary | None, best: bool) -> Cell:
    if summary is None:
        return Cell("not played")
    text = percent(summary.mean, summary.std)
    return Cell(text, best, summary.diverged > 0)


def _best(
    records: Records, policies: list[str], attack: str, summaries: dict[tuple[str, str], Summary | None]
) -> set[str]:
    """The policies that share the highest mean, references aside."""
    means = {
        policy: round(summary.mean, 6)
        for policy in policies
        if policy not in records.references and (summary := summaries[policy, attack]) is not None
    }
    return {policy for policy, mean in means.items() if mean == max(means.values())}


def _footnotes(records: Records, played: set[str], num_byzantine: int) -> tuple[dict[str, str], list[str]]:
    """Marks of the policies played, and the lines that explain them: one for each f that rules were told."""
    marks: dict[str, str] = {}
    lines: dict[str, str] = {}
    for entry in records.told:
        if entry.num_byzantine != num_byzantine or entry.policy not in played:
            continue
        number = len(lines)
        marks[entry.policy] = lines.setdefault(
            str(entry), _MARKS[number] if number < 9 else f"({number + 1})"
        )
    return marks, [f"{mark} {line}" for line, mark in lines.items()]


def _caption(records: Records) -> str:
    comparison = records.comparison
    spread = (
        f" ± standard deviation over {comparison.seeds} seeds" if comparison.seeds > 1 else " of one seed"
    )
    best = "; best in bold" + (", references aside" if records.references else "")
    return f"test accuracy in %{spread}, after {comparison.rounds} rounds{best}"
