"""How a comparison is shown: tables in a terminal, report.md beside the figures, report.html in one file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from rich import box
from rich import table as rich_table
from rich.console import Console, Group, RenderableType
from rich.text import Text

from byzgym.experiments.figures import draw
from byzgym.experiments.results import Results
from byzgym.experiments.tables import (
    Cell,
    Signs,
    Table,
    accuracy_table,
    detection_table,
    difference_table,
    success_table,
    summary_table,
)
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
.note { color: #555; font-size: .9rem; margin: .15rem 0; }
img { max-width: 100%; height: auto; } pre { background: #f3f3f3; padding: .7rem; overflow-x: auto; }
"""

_FIGURES = {
    "overview": "Accuracy over rounds under one attack; bands are one standard deviation over seeds.",
    "accuracy": "Accuracy over rounds, one panel an attack; bands are one standard deviation over seeds.",
    "final": "Accuracy at the end of the runs, mean over seeds.",
    "profile": "Performance profile: the share of a policy's runs, all attacks and seeds together, above "
    "each accuracy. With up to six policies, bands are 95% bootstrap intervals.",
    "credits": "Credit on Byzantine workers at the end of the runs: 0 where a policy has found them all.",
}
_READING = (
    "Every run trains the model from scratch. In each round every worker that takes part submits a gradient "
    "(the change of its model, after several local steps), the Byzantine ones what their attack says. The "
    "policy sees the submissions and the server's quasi-validation (QV) samples and decides on the "
    "update. It never learns who is Byzantine.",
    "All policies meet the same seeds: the same initial model, data, batches and Byzantine workers. "
    "Differences between policies under one attack are therefore paired.",
    "A policy marked as a reference sees who is Byzantine, which no server does, or what workers sent before "
    "a fault in transmission. It shows what would be possible and does not compete for the best.",
    "Whoever attacks chooses the attack, so a policy is as good as under its worst one. The interquartile "
    "mean (IQM), the probability that a run beats another and the performance profiles are those of Agarwal "
    "et al. 2021 (https://arxiv.org/abs/2108.13264). Their bootstrap draws a seed together with its runs "
    "under all attacks, because a seed may be lucky or unlucky under all of them.",
    "A rule is told the number f of Byzantine workers. If its condition does not admit that f, it is told "
    "the largest one it accepts, as the notes below the table say.",
)


def show(results: Results, console: Console) -> None:
    """Print the summary over attacks and the accuracies, for each number of Byzantine workers."""
    star = "" if console.color_system is not None and not console.no_color else "*"
    ascii_only = console.options.ascii_only
    signs = Signs("!", "+-", (), star, "-", "x") if ascii_only else Signs(best=star)
    for f in results.played_numbers:
        tables = [summary_table(results, f, signs, named=False), accuracy_table(results, f, signs)]
        for table in (*tables, success_table(results, f)):
            if table.rows:
                console.print(Text())
                console.print(for_terminal(table, console.width))


def write(results: Results, folder: str | Path) -> list[Path]:
    """Draw the figures and write report.html and report.md; returns the files written."""
    folder = Path(folder)
    figures = draw(results, folder)
    texts = {folder / "report.html": html(results, figures), folder / "report.md": markdown(results, figures)}
    write_texts(texts)
    return [*figures, *texts]


def for_terminal(table: Table, width: int) -> RenderableType:
    """The table for a terminal; as many attacks side by side as ``width`` columns have room for."""
    columns = [_aligned(table, number) for number in range(len(table.columns) - 1)]
    parts: list[RenderableType] = [Text(table.title, style="bold")]
    while columns:
        used, fitting = max(len(name) for name in (table.columns[0], *(row.name for row in table.rows))), 0
        for column in columns:
            used += _GAP + len(column[0])
            if used > width and fitting:
                break
            fitting += 1
        parts += [Text(), _grid(table, columns[:fitting])]
        columns = columns[fitting:]
    notes = [Text(line, style="yellow" if line.startswith("warning") else "dim") for line in table.notes]
    return Group(*parts, Text(), *notes)


def markdown(results: Results, figures: Sequence[Path]) -> str:
    """The report as Markdown that refers to the figures beside it."""
    lines = [f"# byzgym compare: {results.comparison.task}", "", _lead(results), ""]
    for level, table in _tables(results):
        lines += [f"{'#' * level} {table.title}", "", *_markdown_rows(table), ""]
        lines += [f"{line}  " for line in table.notes] + [""]
    lines += ["## Figures", ""]
    for path in figures:
        lines += [f"![{_caption(path)}]({path.name})", ""]
    lines += ["## How to read this", ""]
    for paragraph in _READING:
        lines += [paragraph, ""]
    lines += ["## How it was made", "", "```", results.command, "```", "", _made(results), ""]
    return "\n".join(lines)


def html(results: Results, figures: Sequence[Path]) -> str:
    """The report as one self-contained page."""
    title = escape(f"byzgym compare: {results.comparison.task}")
    body = [f"<h1>{title}</h1>", f'<p class="lead">{escape(_lead(results))}</p>']
    for level, table in _tables(results):
        body += [f"<h{level}>{escape(table.title)}</h{level}>", _html_rows(table)]
        body += [f'<p class="note">{escape(line)}</p>' for line in table.notes]
    body.append("<h2>Figures</h2>")
    for path in figures:
        caption = escape(_caption(path))
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


def _tables(results: Results) -> list[tuple[int, Table]]:
    """The tables, with the levels of their headings."""
    parts = [
        (2, summary_table),
        (3, accuracy_table),
        (3, success_table),
        (3, difference_table),
        (3, detection_table),
    ]
    tables = [(level, build(results, f)) for f in results.played_numbers for level, build in parts]
    return [(level, table) for level, table in tables if table.rows]


def _caption(figure: Path) -> str:
    return _FIGURES[figure.stem.split("_")[0]]


def _aligned(table: Table, number: int) -> list[Text]:
    """A column's heading and entries, all of one width: numbers to the right, marks behind them."""
    cells = [Cell(table.columns[number + 1]), *(row.cells[number] for row in table.rows)]
    width, marks = max(len(cell.text) for cell in cells), max(len(cell.marks) for cell in cells)
    return [
        Text(cell.text.rjust(width) + cell.marks.ljust(marks), style="bold green" if cell.best else "")
        for cell in cells
    ]


def _grid(table: Table, columns: Sequence[list[Text]]) -> rich_table.Table:
    grid = rich_table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    # Texts, because strings would be read as markup: names may hold brackets.
    for heading in (Text(table.columns[0]), *(column[0] for column in columns)):
        grid.add_column(heading, no_wrap=True)
    for number, row in enumerate(table.rows):
        if row.reference and number and not table.rows[number - 1].reference:
            grid.add_section()
        entries = (column[number + 1] for column in columns)
        grid.add_row(Text(row.name), *entries, style="italic" if row.reference else "")
    return grid


def _markdown_rows(table: Table) -> list[str]:
    rows = [table.columns, ["---", *["---:"] * (len(table.columns) - 1)]]
    for row in table.rows:
        bold = ["**" if cell.best else "" for cell in row.cells]
        cells = [f"{b}{cell.text}{cell.marks}{b}" for b, cell in zip(bold, row.cells, strict=True)]
        rows.append([row.name, *cells])
    return ["| " + " | ".join(entry.replace("|", "\\|") for entry in row) + " |" for row in rows]


def _html_rows(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    lines = []
    for row in table.rows:
        kind = ' class="reference"' if row.reference else ""
        entries = [f"<td>{escape(row.name)}</td>"]
        for cell in row.cells:
            text = escape(cell.text + cell.marks)
            entries.append(f"<td><b>{text}</b></td>" if cell.best else f"<td>{text}</td>")
        lines.append(f"<tr{kind}>{''.join(entries)}</tr>")
    body = "\n".join(lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _lead(results: Results) -> str:
    comparison, runs = results.comparison, results.runs
    unfinished = f"Unfinished: {results.unfinished}. " if results.unfinished else ""
    deployment = {
        f", of which {comparison.cohort_size} take part in a round": comparison.cohort_size is not None,
        f", {comparison.local_steps} local steps": comparison.local_steps > 1,
        f", {comparison.num_servers} servers": comparison.num_servers > 1,
    }
    return (
        f"{unfinished}{len(runs)} runs of {comparison.rounds} rounds each: model {runs['model'].iloc[0]}, "
        f"{comparison.num_workers} workers{''.join(text for text, so in deployment.items() if so)}, "
        f"partition {comparison.partition}, roles {comparison.roles}, "
        f"{comparison.qv_size} QV samples, {comparison.seeds} {'seed' if comparison.seeds == 1 else 'seeds'}."
    )


def _made(results: Results) -> str:
    seconds = float(results.runs["seconds"].sum())
    named = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    return f"{named}. The runs took {seconds:.0f} s on device {results.comparison.device}."
