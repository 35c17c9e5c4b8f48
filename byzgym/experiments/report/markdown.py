"""The report as Markdown, for repositories and issues."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from byzgym.experiments.report import text
from byzgym.experiments.report.contents import settings_table, tables_of
from byzgym.experiments.results import Results
from byzgym.experiments.tables import Table


def markdown(results: Results, figures: Sequence[Path]) -> str:
    """The report of a setting, which refers to the figures beside it."""
    unfinished = f"Unfinished: {results.unfinished}. " if results.unfinished else ""
    lines = [f"# {text.title(results)}", "", unfinished + text.lead(results), ""]
    for f in results.played_numbers:
        for level, table in tables_of(results, f):
            lines += [f"{'#' * level} {table.title}", "", *rows(table), ""]
            lines += [f"{line}  " for line in table.notes] + [""]
    lines += ["## Figures", "", *images(figures), "## How to read this", ""]
    for paragraph in text.READING:
        lines += [paragraph, ""]
    lines += ["## How it was made", "", "```", results.command, "```", "", text.made(results), ""]
    return "\n".join(lines)


def images(figures: Sequence[Path]) -> list[str]:
    """Each figure once, in the first of its formats; a PDF, which pages cannot show, as a link."""
    first: dict[str, Path] = {}
    for path in figures:
        first.setdefault(path.stem, path)
    signs = ["" if path.suffix == ".pdf" else "!" for path in first.values()]
    links = [f"[{text.caption(path)}]({path.name})" for path in first.values()]
    return [line for sign, link in zip(signs, links, strict=True) for line in (sign + link, "")]


def rows(table: Table) -> list[str]:
    """A table's lines."""
    lines = [table.columns, ["---", *["---:"] * (len(table.columns) - 1)]]
    for row in table.rows:
        bold = ["**" if cell.best else "" for cell in row.cells]
        cells = [f"{b}{cell.text}{cell.marks}{b}" for b, cell in zip(bold, row.cells, strict=True)]
        lines.append([row.name, *cells])
    return ["| " + " | ".join(entry.replace("|", "\\|") for entry in row) + " |" for row in lines]


def sweep_markdown(
    found: Sequence[Results], names: Sequence[str], places: Sequence[str], figures: Sequence[Path]
) -> str:
    """The report of all settings of a sweep, which leads to those of the settings."""
    table = settings_table(found, names)
    lines = [f"# byzgym sweep: {found[0].comparison.task}", "", *rows(table), "", *table.notes, ""]
    lines += [*images(figures), "## Reports", ""]
    for name, place, results in zip(names, places, found, strict=True):
        if not results.runs.empty:
            lines.append(f"- [{name}](<{place}/report.md>)")
    return "\n".join(
        [*lines, "", "## How it was made", "", "```", *(one.command for one in found), "```", ""]
    )
