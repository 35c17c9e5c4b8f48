"""The report as Markdown, for repositories and issues."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from byzgym.experiments import escaping
from byzgym.experiments.escaping import plain
from byzgym.experiments.report import text
from byzgym.experiments.report.contents import Tables, settings_table
from byzgym.experiments.results import Results
from byzgym.experiments.tables import Table


def setting_markdown(results: Results, tables: Tables, figures: Sequence[Path]) -> str:
    """The report of a setting, with its tables, which refers to the figures beside it."""
    unfinished = f"Unfinished: {results.unfinished}. " if results.unfinished else ""
    lines = [f"# {plain(text.title(results))}", "", plain(unfinished + text.lead(results)), ""]
    for level, table in chain.from_iterable(tables.values()):
        lines += [f"{'#' * level} {plain(table.title)}", "", *rows(table), ""]
        lines += [f"{plain(line)}  " for line in table.notes] + [""]
    lines += ["## Figures", "", *images(figures, text.colours(results)), "## How to read this", ""]
    for paragraph in text.READING:
        lines += [paragraph, ""]
    made = [*escaping.code(results.command), "", plain(text.made(results)), ""]
    return "\n".join([*lines, "## How it was made", "", *made])


def images(figures: Sequence[Path], colours: str = "") -> list[str]:
    """Each figure once, in the first of its formats; a PDF, which pages cannot show, as a link."""
    first: dict[str, Path] = {}
    for path in figures:
        first.setdefault(path.stem, path)
    signs = ["" if path.suffix == ".pdf" else "!" for path in first.values()]
    links = [f"[{text.caption(path, colours)}]({path.name})" for path in first.values()]
    return [line for sign, link in zip(signs, links, strict=True) for line in (sign + link, "")]


def rows(table: Table) -> list[str]:
    """A table's lines."""
    lines = []
    for row in table.rows:
        cells = [plain(cell.text + cell.marks) for cell in row.cells]
        bold = [f"**{cell}**" if own.best else cell for cell, own in zip(cells, row.cells, strict=True)]
        lines.append([plain(row.name), *bold])
    return escaping.table(list(map(plain, table.columns)), lines, numbers=True)


def sweep_markdown(
    found: Sequence[Results], names: Sequence[str], places: Sequence[str], figures: Sequence[Path]
) -> str:
    """The report of all settings of a sweep, which leads to those of the settings."""
    table = settings_table(found, names)
    lines = [f"# {plain(text.sweep_title(found))}", "", *rows(table), "", *map(plain, table.notes), ""]
    lines += [*images(figures), "## Reports", ""]
    for name, place, results in zip(names, places, found, strict=True):
        if not results.runs.empty:
            lines.append(f"- [{plain(name)}](<{place}/report.md>)")
    lines += ["", text.THREAT_MODELS, "", "## How it was made", ""]
    return "\n".join([*lines, *escaping.code("\n".join(one.command for one in found)), ""])
