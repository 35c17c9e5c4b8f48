"""The report as one page that opens offline: all that it needs is inside, and it asks for nothing else."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from urllib.parse import quote

from byzgym.experiments import traces
from byzgym.experiments.config import command
from byzgym.experiments.figures.style import Line, Palette
from byzgym.experiments.report import text
from byzgym.experiments.report.contents import (
    Tables,
    breakdown_table,
    common_details,
    details,
    failures_table,
    settings_table,
)
from byzgym.experiments.report.plots import Group, Plot, credits, curves, maps
from byzgym.experiments.results import Results
from byzgym.experiments.tables import Table

_FILES = resources.files(__package__)
_PLOTLY = "plotly-cartesian-4.1.1.min.js.gz"
_BREAKS = re.compile("[=:,_+]")
"""After these a long name may go on in the next line."""
_GOES_ON = "The same command again goes on"
_COLUMN = 330  # pixels, where three figures stand side by side
# The browser refuses whatever would leave the page.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


def setting_html(results: Results, tables: Tables, highlight: Sequence[str] = ()) -> str:
    """The report of a setting, with its tables."""
    palette, numbers = Palette(results, highlight), results.played_numbers
    body = [f"<h1>{escape(text.title(results))}</h1>", f'<p class="lead">{escape(text.lead(results))}</p>']
    body += _unfinished([results])
    places = {f"f{f}": f"f = {f}" for f in numbers} | {"made": "Configuration", "reading": "How to read this"}
    body.append(_navigation(places))
    if len(numbers) > 1:
        body += _table(2, breakdown_table(results), "against-f")
        body += _group(curves.breakdown(results, palette))
    bins = credits.bins(results, min(results.comparison.num_workers, traces.MOST_WORKERS))
    for f in numbers:
        for number, (level, table) in enumerate(tables[f]):
            body += _table(level, table, "" if number else f"f{f}")
        groups = (
            curves.accuracy_over_rounds(results, f, palette),
            maps.final_accuracy(results, f),
            curves.profiles(results, f, palette),
            credits.detection(results, f, palette),
            credits.traces(results, f, traces.read(results, f, bins)),
        )
        for group in groups:
            body += _group(group) if group else []
    body += _table(2, failures_table([results]), "failed")
    body += _made(results) + _reading()
    return _page(text.title(results), body)


def sweep_html(found: Sequence[Results], names: Sequence[str], places: Sequence[str]) -> str:
    """The report of all settings of a sweep.

    Args:
        found: The settings.
        names: What tells them from each other.
        places: The folders of their reports.
    """
    title = text.sweep_title(found)
    runs = sum(len(results.runs) for results in found)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{len(found)} settings, {runs} runs. Each setting has a report of its own.</p>',
    ]
    body += _unfinished(found)
    body.append(
        _navigation({"settings": "Settings", "made": "How it was made", "reading": "How to read this"})
    )
    links = {
        name: f"{quote(place)}/report.html"
        for name, place, results in zip(names, places, found, strict=True)
        if not results.runs.empty
    }
    body += _table(2, settings_table(found, names), "settings", links)
    body += _group(maps.settings(found, names))
    body += _table(2, failures_table(found), "failed")
    body.append('<h2 id="made">How it was made</h2>')
    body += ["<p>Each setting by itself:</p>", f"<pre>{escape(_commands(found))}</pre>"]
    body.append(f'<p class="note">{escape(text.THREAT_MODELS)}</p>')
    for table in common_details(found):
        body += _table(3, table, kind="text")
    body += _reading()
    return _page(title, body)


def _commands(found: Sequence[Results]) -> str:
    return "\n".join(results.command for results in found)


def _unfinished(found: Sequence[Results]) -> list[str]:
    """What of all that was asked for is missing."""
    done, asked = (sum(len(table) for table in tables) for tables in zip(
        *((results.runs, results.expected) for results in found), strict=True))  # fmt: skip
    if done >= asked:
        return []
    failed = sum(len(results.failed) for results in found)
    count = f", {failed} failed" if failed else ""
    errors = ' (<a href="#failed">errors</a>)' if failed else ""
    earlier = all(results.last_is_finished for results in found)
    goes_on = "Earlier commands asked for the rest, and go on if given again" if earlier else _GOES_ON
    told = f"All numbers are those of the finished runs. {goes_on}."
    return [f'<p class="warning"><b>Unfinished: {done} of {asked} runs{count}</b>{errors}. {told}</p>']


def _navigation(places: Mapping[str, str]) -> str:
    links = (f'<a href="#{place}">{escape(name)}</a>' for place, name in places.items())
    return f"<nav>{''.join(links)}</nav>"


def _made(results: Results) -> list[str]:
    """How to get the same again. Tables of what else is recorded belong to `details`."""
    lines = ['<h2 id="made">How it was made</h2>', f"<pre>{escape(results.command)}</pre>"]
    if results.folder is not None:
        again = command(results.imports, "report", "FOLDER")
        lines.append(f'<p class="note">{escape(again)} makes this page again from the runs of a folder.</p>')
    for table in details(results):
        lines += _table(3, table, kind="text")
    return lines


def _reading() -> list[str]:
    lines = ['<h2 id="reading">How to read this</h2>']
    return lines + [f"<p>{escape(paragraph)}</p>" for paragraph in text.READING]


def _table(
    level: int, table: Table, place: str = "", links: Mapping[str, str] | None = None, kind: str = ""
) -> list[str]:
    """A table that can be sorted, with its heading and notes; nothing without rows."""
    if not table.rows:
        return []
    named = f' id="{place}"' if place else ""
    lines = [f"<h{level}{named}>{escape(table.title)}</h{level}>"]
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(column)}</button></th>'
        for column in table.columns
    )
    rows = []
    for row in table.rows:
        name = _BREAKS.sub(r"\g<0><wbr>", escape(row.name))
        if links and row.name in links:
            name = f'<a href="{escape(links[row.name])}">{name}</a>'
        cells = [f"<td>{name}</td>"]
        for cell in row.cells:
            shown = escape(cell.text + cell.marks)
            cells.append(f"<td><b>{shown}</b></td>" if cell.best else f"<td>{shown}</td>")
        rows.append(f"<tr{' class=reference' if row.reference else ''}>{''.join(cells)}</tr>")
    style = f' class="{kind}"' if kind else ""
    body = "\n".join(rows)
    label = escape(table.title)
    lines.append(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table{style}>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )
    return lines + [f'<p class="note">{escape(line)}</p>' for line in table.notes]


def _group(group: Group) -> list[str]:
    """Figures with their heading, their legend, and what they show."""
    lines = [f"<h3>{escape(group.heading)}</h3>", '<figure style="margin:0">']
    lines.append(f'<figcaption class="note">{escape(group.caption)}</figcaption>')
    if group.legend:
        entries = "".join(_entry(name, line) for name, line in group.legend.items())
        lines.append(f'<div class="legend">{entries}</div>')
    shown = list(dict.fromkeys(group.choice))
    if shown:
        options = "".join(
            f"<option{' selected' if name == group.chosen else ''}>{escape(name)}</option>" for name in shown
        )
        lines.append(f'<p><label>policy <select autocomplete="off">{options}</select></label></p>')
    together = len(group.plots) // max(1, len(shown))
    # Two or four stand in two columns, and so do those that need room.
    two = together in (2, 4) or any(plot.width > _COLUMN for plot in group.plots)
    size = " wide" if group.wide else " large" if two else ""
    lines.append(f'<div class="plots{size}">')
    for number, plot in enumerate(group.plots):
        about = group.choice[number] if shown else ""
        hidden = " hidden" if shown and about != group.chosen else ""
        choice = f' data-choice="{escape(about)}"{hidden}' if shown else ""
        title = f'<p class="title">{escape(plot.title).replace(" = ", "&nbsp;=&nbsp;")}</p>'
        lines.append(f'<div{choice}>{title}<div class="scroll">{_plot(plot)}</div></div>')
    return [*lines, "</div>", "</figure>"]


def _plot(plot: Plot) -> str:
    figure = json.dumps({"data": plot.data, "layout": plot.layout}, separators=(",", ":"), allow_nan=False)
    held = figure.replace("<", "\\u003c")  # so that nothing in it ends the element
    size = f"min-height:{plot.layout['height']}px"
    if plot.width:
        size += f";min-width:{plot.width}px"
    data = f'<script type="application/json">{held}</script>'
    return f'<div class="plot" data-title="{escape(plot.title)}" style="{size}">{data}</div>'


def _entry(name: str, line: Line) -> str:
    dashes = " ".join(f"{line.width * part:.1f}" for part in line.dashes) or "none"
    stroke = f'stroke="{line.color}" stroke-width="{line.width + 0.6}" stroke-dasharray="{dashes}"'
    swatch = f'<svg width="34" height="8" aria-hidden="true"><path d="M0 4H34" {stroke}/></svg>'
    # plotly gets names escaped, and the button is found by what plotly gets
    held = escape(escape(name, quote=False))
    return f'<button type="button" aria-pressed="true" data-name="{held}">{swatch}{escape(name)}</button>'


def _page(title: str, body: Sequence[str]) -> str:
    style, script = ((_FILES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    plotly = gzip.decompress((_FILES / _PLOTLY).read_bytes()).decode()
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{style}</style>"
    )
    figures = "<noscript><p>The figures of this page need JavaScript; those in files do not.</p></noscript>"
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head>{head}</head>',
        f"<body>{figures}",
        *body,
        f"<script>{plotly}</script>",
        f"<script>\n{script}</script>",
        "</body></html>",
        "",
    ]
    return "\n".join(parts)
