"""The tables of a comparison, built once and shown in a terminal, in report.md and in report.html."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from rich import box
from rich import table as rich_table
from rich.console import Console, Group, RenderableType
from rich.text import Text

from byzgym import specs
from byzgym.attacks.registry import registry as attack_registry
from byzgym.experiments.figures import draw
from byzgym.experiments.results import Results
from byzgym.experiments.statistics import LEVEL, Summary, leader, paired_difference, summarise
from byzgym.files import write_texts

_GAP = 3  # between two columns of the terminal's table

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.25rem; margin-top: 2.4rem; }
.lead { color: #555; margin-top: 0; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: .2rem; }
thead th { border-bottom: 2px solid #444; } tbody tr:nth-child(even) { background: #f6f6f6; }
tr.reference td { border-top: 1px solid #999; font-style: italic; }
.note { color: #555; font-size: .9rem; margin: .15rem 0; } .warning { color: #a33; }
img { max-width: 100%; height: auto; } pre { background: #f3f3f3; padding: .7rem; overflow-x: auto; }
"""

_FIGURES = {
    "overview": "Accuracy over rounds under one attack; bands are one standard deviation over seeds.",
    "accuracy": "Accuracy over rounds, one panel an attack; bands are one standard deviation over seeds.",
    "final": "Accuracy at the end of the runs, mean over seeds.",
    "credits": "Credit on Byzantine workers at the end of the runs: 0 where a policy has found them all.",
}
_DIFFERENCES = (
    "Accuracy of the policy with the highest mean over attacks, less that of each other one, in points of "
    f"percent. Seeds are paired, attacks are averaged within a seed; in brackets the {LEVEL:.0%} t interval "
    "over seeds, not corrected for the choice of the leader or for the number of comparisons."
)
_DETECTION = (
    "Credit on Byzantine workers in the last tenth of the rounds / ROC AUC of low credit as a detector of "
    "Byzantine workers in the last half of the rounds (1: always right, 0.5: chance, 0: always wrong). Means "
    "over seeds; – where there are no credits."
)
_READING = (
    "Every run trains the model from scratch. In each round every worker submits a gradient, the Byzantine "
    "ones what their attack says. The policy sees the submissions and the server's quasi-validation (QV) "
    "samples and decides on the update. It never learns who is Byzantine.",
    "All policies meet the same seeds: the same initial model, data, batches and Byzantine workers. "
    "Differences between policies under one attack are therefore paired.",
    "A policy marked as a reference sees who is Byzantine, which no server does. It shows what would be "
    "possible and does not compete for the best.",
    "A rule is told the number f of Byzantine workers. If its condition does not admit that f, it is told "
    "the largest one it accepts, as the notes below the table say.",
)


@dataclass(frozen=True)
class Signs:
    """The signs of a table, by what the place where it is shown can display."""

    unicode: bool = True
    bold: bool = True

    @property
    def diverged(self) -> str:
        """Marks the mean of runs of which at least one diverged."""
        return "†" if self.unicode else "!"

    @property
    def spread(self) -> str:
        """Stands between a mean and its standard deviation."""
        return "±" if self.unicode else "+-"

    def footnote(self, number: int) -> str:
        """The mark of a footnote, numbered from 1."""
        return "¹²³⁴⁵⁶⁷⁸⁹"[number - 1] if self.unicode and number <= 9 else f"({number})"


@dataclass(frozen=True)
class Cell:
    """An entry, the marks behind it, and whether it is the best of its column."""

    text: str
    marks: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A policy: its name with the mark of its footnote, and its entries."""

    name: str
    cells: list[Cell]
    reference: bool = False


@dataclass(frozen=True)
class Table:
    """Policies (rows) under attacks (columns).

    Attributes:
        title: What it shows.
        columns: The headings, that of the policies first.
        rows: The policies, references last.
        notes: How to read it.
        warnings: What the reader should not overlook.
    """

    title: str
    columns: list[str]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def show(results: Results, console: Console) -> None:
    """Print the tables of accuracies, one for each number of Byzantine workers."""
    bold = console.color_system is not None and not console.no_color
    signs = Signs(unicode=not console.options.ascii_only, bold=bold)
    for f in _played_numbers(results):
        console.print(Text())
        console.print(for_terminal(accuracy_table(results, f, signs), console.width))


def write(results: Results, folder: str | Path) -> list[Path]:
    """Draw the figures and write report.html and report.md.

    Returns:
        The files written.

    Raises:
        OSError: If one of them cannot be written.
    """
    folder = Path(folder)
    figures = draw(results, folder)
    texts = {folder / "report.html": html(results, figures), folder / "report.md": markdown(results, figures)}
    write_texts(texts)
    return [*figures, *texts]


def accuracy_table(results: Results, num_byzantine: int, signs: Signs = Signs()) -> Table:
    """Accuracy at the end of the runs, for one number of Byzantine workers."""
    comparison = results.comparison
    policies = results.played(num_byzantine)
    summaries = {
        (policy, attack): summarise(results.runs, policy, attack, num_byzantine)
        for policy in policies
        for attack in comparison.attacks
    }
    highest = {
        attack: max((_mean(summaries[p, attack]) for p in policies if p not in results.references), default=0)
        for attack in comparison.attacks
    }
    table = Table(
        title=f"{comparison.task}, {comparison.heading(num_byzantine)}",
        columns=["policy", *comparison.attacks],
        notes=[_caption(results, signs)],
    )
    footnotes: dict[str, str] = {}  # text -> mark
    for policy in policies:
        reference = policy in results.references
        cells = []
        for attack in comparison.attacks:
            summary = summaries[policy, attack]
            cells.append(_cell(summary, not reference and _mean(summary) == highest[attack], signs))
        mark = ""
        for told in results.told:
            if (told.policy, told.num_byzantine) == (policy, num_byzantine):
                mark = footnotes.setdefault(str(told), signs.footnote(len(footnotes) + 1))
        table.rows.append(Row(f"{results.label(policy)} {mark}".strip(), cells, reference))
    table.notes.extend(f"{mark} {text}" for text, mark in footnotes.items())
    if any(summary is not None and summary.diverged for summary in summaries.values()):
        exploded = "parameters not finite, or a QV loss at the end 1000 times that at the start"
        table.notes.append(f"{signs.diverged} a run diverged: {exploded}")
    for attack in comparison.attacks:
        z = _effective_z(attack, comparison.num_workers, num_byzantine)
        if z is not None:
            text = f"{attack}: z = {z:.2f} for n={comparison.num_workers}, f={num_byzantine}"
            (table.notes if z > 0 else table.warnings).append(
                text if z > 0 else f"{text}: it does not attack"
            )
    return table


def difference_table(results: Results, num_byzantine: int) -> Table:
    """Paired differences to the policy of the highest mean accuracy."""
    attacks = results.comparison.attacks
    policies = results.played(num_byzantine)
    ranked = [policy for policy in policies if policy not in results.references]
    first = leader(results.runs, ranked, attacks, num_byzantine)
    several = attacks if len(attacks) > 1 else ()
    columns = [f"{first} less ...", "mean of all attacks", *several]
    table = Table("Paired differences", columns, notes=[_DIFFERENCES])
    for policy in policies:
        if first is None or policy == first:
            continue
        cells = []
        for chosen in (attacks, *([attack] for attack in several)):
            found = paired_difference(results.runs, first, policy, chosen, num_byzantine)
            text = "–" if found is None else f"{100 * found.mean:+.1f}"
            if found is not None and not math.isnan(found.low):
                text += f" [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
            cells.append(Cell(text))
        table.rows.append(Row(results.label(policy), cells, policy in results.references))
    return table


def detection_table(results: Results, num_byzantine: int) -> Table:
    """Byzantine credit and detection AUC of the policies that give credits."""
    attacks = results.comparison.attacks
    table = Table("Credits and detection", ["policy", *attacks], notes=[_DETECTION])
    for policy in results.played(num_byzantine):
        cells = []
        for attack in attacks:
            found = summarise(results.runs, policy, attack, num_byzantine)
            pair = (math.nan, math.nan) if found is None else (found.byzantine_credit, found.detection_auc)
            cells.append(Cell(" / ".join("–" if math.isnan(value) else f"{value:.2f}" for value in pair)))
        if any(cell.text != "– / –" for cell in cells):
            table.rows.append(Row(results.label(policy), cells, policy in results.references))
    return table


def for_terminal(table: Table, width: int) -> RenderableType:
    """The table for a terminal; as many attacks side by side as ``width`` columns have room for."""
    parts: list[RenderableType] = [Text(table.title, style="bold")]
    left = list(range(len(table.columns) - 1))
    while left:
        used = max([len(table.columns[0]), *(len(row.name) for row in table.rows)])
        chosen: list[int] = []
        while left and (not chosen or used + _GAP + _width(table, left[0]) <= width):
            used += _GAP + _width(table, left[0])
            chosen.append(left.pop(0))
        parts += [Text(), _part_for_terminal(table, chosen)]
    notes = [Text(line, style="dim") for line in table.notes]
    warnings = [Text(line, style="yellow") for line in table.warnings]
    return Group(*parts, Text(), *notes, *warnings)


def markdown(results: Results, figures: Sequence[Path]) -> str:
    """The report as Markdown that refers to the figures beside it."""
    lines = [f"# {_title(results)}", "", _lead(results), ""]
    for f in _played_numbers(results):
        for level, table in _tables(results, f):
            lines += [f"{'#' * level} {table.title}", "", *_markdown_rows(table), ""]
            lines += [f"{line}  " for line in (*table.notes, *table.warnings)] + [""]
    lines += ["## Figures", ""]
    for path in figures:
        lines += [f"![{_figure_caption(path)}]({path.name})", ""]
    lines += ["## How to read this", ""]
    for paragraph in _READING:
        lines += [paragraph, ""]
    lines += ["## How it was made", "", "```", results.command, "```", "", _made(results), ""]
    return "\n".join(lines)


def html(results: Results, figures: Sequence[Path]) -> str:
    """The report as one self-contained page."""
    title = escape(_title(results))
    body = [f"<h1>{title}</h1>", f'<p class="lead">{escape(_lead(results))}</p>']
    for f in _played_numbers(results):
        for level, table in _tables(results, f):
            body += [f"<h{level}>{escape(table.title)}</h{level}>", _html_rows(table)]
            body += [f'<p class="note">{escape(line)}</p>' for line in table.notes]
            body += [f'<p class="note warning">{escape(line)}</p>' for line in table.warnings]
    body.append("<h2>Figures</h2>")
    for path in figures:
        caption = escape(_figure_caption(path))
        data = base64.b64encode(path.read_bytes()).decode()
        body.append(f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">')
        body.append(f'<figcaption class="note">{caption}</figcaption></figure>')
    body.append("<h2>How to read this</h2>")
    body += [f"<p>{escape(paragraph)}</p>" for paragraph in _READING]
    body += ["<h2>How it was made</h2>", f"<pre>{escape(results.command)}</pre>"]
    body.append(f'<p class="note">{escape(_made(results))}</p>')
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style>"
    )
    page = ["<!DOCTYPE html>", f'<html lang="en"><head>{head}</head>', "<body>", *body, "</body></html>", ""]
    return "\n".join(page)


def _tables(results: Results, num_byzantine: int) -> list[tuple[int, Table]]:
    """The tables of one number of Byzantine workers, with the levels of their headings."""
    parts = [(2, accuracy_table), (3, difference_table), (3, detection_table)]
    tables = [(level, build(results, num_byzantine)) for level, build in parts]
    return [(level, table) for level, table in tables if table.rows]


def _played_numbers(results: Results) -> list[int]:
    return [f for f in results.comparison.num_byzantine if results.played(f)]


def _mean(summary: Summary | None) -> float:
    """The mean accuracy, to six digits, so that equal ones compare as equal; -1 where nothing was played."""
    return -1 if summary is None else round(summary.mean, 6)


def _cell(summary: Summary | None, best: bool, signs: Signs) -> Cell:
    if summary is None:
        return Cell("not played")
    spread = "" if math.isnan(summary.std) else f" {signs.spread} {100 * summary.std:.1f}"
    marks = (signs.diverged if summary.diverged else "") + ("*" if best and not signs.bold else "")
    return Cell(f"{100 * summary.mean:.1f}{spread}", marks, best)


def _caption(results: Results, signs: Signs) -> str:
    comparison = results.comparison
    spread = (
        f" {signs.spread} standard deviation over {comparison.seeds} seeds"
        if comparison.seeds > 1
        else " of one seed"
    )
    best = "best in bold" if signs.bold else "best marked *"
    aside = ", references aside" if results.references else ""
    return f"test accuracy in %{spread}, after {comparison.rounds} rounds; {best}{aside}"


def _effective_z(attack: str, num_workers: int, num_byzantine: int) -> float | None:
    """The z of an attack such as alie, which depends on n and f; None for others and where f is 0."""
    name = specs.parse(attack)["name"]
    known = name in attack_registry.names() and hasattr(attack_registry.factory(name), "effective_z")
    if not known or num_byzantine == 0:
        return None
    made: Any = attack_registry.make_from(attack)
    return float(made.effective_z(num_workers, num_byzantine))


def _part_for_terminal(table: Table, chosen: Sequence[int]) -> rich_table.Table:
    shown = rich_table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    # Texts, because strings would be read as markup: names may hold brackets.
    shown.add_column(Text(table.columns[0]), no_wrap=True)
    for column in chosen:
        shown.add_column(Text(_aligned(table, column, Cell(table.columns[column + 1]))), no_wrap=True)
    for number, row in enumerate(table.rows):
        if row.reference and number and not table.rows[number - 1].reference:
            shown.add_section()
        cells = [row.cells[column] for column in chosen]
        texts = [
            Text(_aligned(table, column, cell), style="bold green" if cell.best else "")
            for column, cell in zip(chosen, cells, strict=True)
        ]
        shown.add_row(Text(row.name), *texts, style="italic" if row.reference else "")
    return shown


def _aligned(table: Table, column: int, cell: Cell) -> str:
    """The entry to the right of its column, with the marks behind it in a place of their own."""
    marks = _marks_width(table, column)
    return cell.text.rjust(_width(table, column) - marks) + cell.marks.ljust(marks)


def _width(table: Table, column: int) -> int:
    entries = [table.columns[column + 1], *(row.cells[column].text for row in table.rows)]
    return max(map(len, entries)) + _marks_width(table, column)


def _marks_width(table: Table, column: int) -> int:
    return max((len(row.cells[column].marks) for row in table.rows), default=0)


def _markdown_rows(table: Table) -> list[str]:
    rows = [table.columns, ["---", *["---:"] * (len(table.columns) - 1)]]
    for row in table.rows:
        texts = [f"{cell.text}{cell.marks}" for cell in row.cells]
        cells = [f"**{text}**" if cell.best else text for text, cell in zip(texts, row.cells, strict=True)]
        rows.append([row.name, *cells])
    return ["| " + " | ".join(entry.replace("|", "\\|") for entry in row) + " |" for row in rows]


def _html_rows(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    lines = []
    for row in table.rows:
        texts = [escape(f"{cell.text}{cell.marks}") for cell in row.cells]
        cells = [f"<b>{text}</b>" if cell.best else text for text, cell in zip(texts, row.cells, strict=True)]
        kind = ' class="reference"' if row.reference else ""
        lines.append(
            f"<tr{kind}>" + "".join(f"<td>{entry}</td>" for entry in (escape(row.name), *cells)) + "</tr>"
        )
    body = "\n".join(lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _title(results: Results) -> str:
    return f"byzgym compare: {results.comparison.task}"


def _lead(results: Results) -> str:
    comparison, runs = results.comparison, results.runs
    return (
        f"{len(runs)} runs of {comparison.rounds} rounds each: model {runs['model'].iloc[0]}, "
        f"{comparison.num_workers} workers, partition {comparison.partition}, roles {comparison.roles}, "
        f"{comparison.qv_size} QV samples, {comparison.seeds} {'seed' if comparison.seeds == 1 else 'seeds'}."
    )


def _made(results: Results) -> str:
    seconds = float(results.runs["seconds"].sum())
    named = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    return f"{named}. The runs took {seconds:.0f} s on device {results.comparison.device}."


def _figure_caption(path: Path) -> str:
    return _FIGURES[path.stem.split("_")[0]]
