"""report.html, which holds everything in one file, and report.md beside the figures."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from byzgym.experiments.figures import draw
from byzgym.experiments.files import write_texts
from byzgym.experiments.records import Records
from byzgym.experiments.statistics import LEVEL, leader, paired_difference, summarise
from byzgym.experiments.tables import AccuracyTable, accuracy_table

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
    "credits": "Credit on Byzantine workers at the end of the runs: 0 where a policy has found them all.",
}


def write(records: Records, folder: str | Path) -> list[Path]:
    """Draw the figures and write both reports.

    Returns:
        The files written.

    Raises:
        OSError: If one of them cannot be written.
    """
    folder = Path(folder)
    figures = draw(records, folder)
    write_texts(
        {
            folder / "report.html": html(records, figures),
            folder / "report.md": markdown(records, figures),
        }
    )
    return [*figures, folder / "report.html", folder / "report.md"]


def html(records: Records, figures: Sequence[Path]) -> str:
    """The report as one self-contained page."""
    title = f"byzgym compare: {records.comparison.task}"
    body = [f"<h1>{escape(title)}</h1>", f'<p class="lead">{escape(_lead(records))}</p>']
    for table, differences, detection in _parts(records):
        body += [f"<h2>{escape(table.title)}</h2>", _html_accuracy(table)]
        body += [f'<p class="note">{escape(line)}</p>' for line in (table.caption, *table.footnotes)]
        body += _html_section("Paired differences", _DIFFERENCES, differences)
        body += _html_section("Credits and detection", _DETECTION, detection)
    body.append("<h2>Figures</h2>")
    for path in figures:
        caption = escape(_FIGURES[path.stem.split("_")[0]])
        data = base64.b64encode(path.read_bytes()).decode()
        body.append(f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">')
        body.append(f'<figcaption class="note">{caption}</figcaption></figure>')
    body.append("<h2>How to read this</h2>")
    body += [f"<p>{escape(paragraph)}</p>" for paragraph in _READING]
    body += ["<h2>How it was made</h2>", f"<pre>{escape(records.comparison.command())}</pre>"]
    body.append(f'<p class="note">{escape(_made(records))}</p>')
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def markdown(records: Records, figures: Sequence[Path]) -> str:
    """The report as Markdown that refers to the figures beside it."""
    lines = [f"# byzgym compare: {records.comparison.task}", "", _lead(records), ""]
    for table, differences, detection in _parts(records):
        lines += [f"## {table.title}", "", *_markdown_accuracy(table), ""]
        lines += [f"{line}  " for line in (table.caption, *table.footnotes)]
        for heading, text, rows in (
            ("Paired differences", _DIFFERENCES, differences),
            ("Credits and detection", _DETECTION, detection),
        ):
            if len(rows) > 1:
                lines += ["", f"### {heading}", "", text, "", *_markdown_rows(rows), ""]
    lines += ["## Figures", ""]
    for path in figures:
        lines += [f"![{_FIGURES[path.stem.split('_')[0]]}]({path.name})", ""]
    lines += ["## How to read this", ""]
    for paragraph in _READING:
        lines += [paragraph, ""]
    lines += ["## How it was made", "", "```", records.comparison.command(), "```", "", _made(records), ""]
    return "\n".join(lines)


_DIFFERENCES = (
    "Accuracy of the policy with the highest mean over attacks, less that of each other one, in points of "
    f"percent. Seeds are paired, attacks are averaged within a seed; in brackets the {LEVEL:.0%} t interval "
    "over seeds, not corrected for the choice of the leader or for the number of comparisons."
)
_DETECTION = (
    "Credit on Byzantine workers in the last tenth of the rounds / area under the ROC curve with which low "
    "credit tells Byzantine workers in the last half of the rounds (1: always, 0.5: not at all, 0: always "
    "wrong). Means over seeds; – where there are no credits."
)
_READING = (
    "Every run trains the model from scratch. In each round every worker submits a gradient, the Byzantine "
    "ones what their attack says; the policy sees the submissions and the server's quasi-validation (QV) "
    "samples, decides on the update, and never learns who is Byzantine.",
    "All policies meet the same seeds: the same initial model, data, batches and Byzantine workers. "
    "Differences between policies under one attack are therefore paired.",
    "A policy marked as a reference sees who is Byzantine, which no server does. It shows what would be "
    "possible, and takes no part in the choice of the best.",
    "A rule is told the number f of Byzantine workers. Where its condition does not admit that f, it is told "
    "the largest one it accepts, as the notes below the table say.",
)


def _parts(records: Records) -> list[tuple[AccuracyTable, list[list[str]], list[list[str]]]]:
    """For each number of Byzantine workers the table, the paired differences and the detection."""
    parts = []
    for f in records.comparison.num_byzantine:
        table = accuracy_table(records, f)
        if table.rows:
            parts.append((table, _differences(records, table, f), _detection(records, table, f)))
    return parts


def _differences(records: Records, table: AccuracyTable, num_byzantine: int) -> list[list[str]]:
    attacks = records.comparison.attacks
    policies = [row.policy for row in table.rows if not row.reference]
    first = leader(records.results, policies, attacks, num_byzantine)
    rows = [[f"{first} less ...", "mean of all attacks", *(attacks if len(attacks) > 1 else ())]]
    for row in table.rows:
        if first is None or row.policy == first:
            continue
        columns = [attacks, *([attack] for attack in attacks)] if len(attacks) > 1 else [attacks]
        rows.append([_named(row.policy, row.reference)])
        for column in columns:
            found = paired_difference(records.results, first, row.policy, column, num_byzantine)
            if found is None:
                rows[-1].append("–")
            elif math.isnan(found.low):
                rows[-1].append(f"{100 * found.mean:+.1f}")
            else:
                rows[-1].append(f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]")
    return rows


def _detection(records: Records, table: AccuracyTable, num_byzantine: int) -> list[list[str]]:
    attacks = records.comparison.attacks
    rows = [["policy", *attacks]]
    for row in table.rows:
        entries = []
        for attack in attacks:
            summary = summarise(records.results, row.policy, attack, num_byzantine)
            pair = (
                (math.nan, math.nan) if summary is None else (summary.byzantine_credit, summary.detection_auc)
            )
            entries.append(" / ".join("–" if math.isnan(value) else f"{value:.2f}" for value in pair))
        if any(entry != "– / –" for entry in entries):
            rows.append([_named(row.policy, row.reference), *entries])
    return rows


def _lead(records: Records) -> str:
    comparison, results = records.comparison, records.results
    model = results["model"].iloc[0]
    return (
        f"{len(results)} runs of {comparison.rounds} rounds each: model {model}, {comparison.num_workers} "
        f"workers, partition {comparison.partition}, roles {comparison.roles}, {comparison.qv_size} QV "
        f"samples, {comparison.seeds} {'seed' if comparison.seeds == 1 else 'seeds'}."
    )


def _made(records: Records) -> str:
    seconds = float(records.results["seconds"].sum())
    named = ", ".join(f"{name} {number}" for name, number in records.versions.items())
    return f"{named}. The runs took {seconds:.0f} s on device {records.comparison.device}."


def _named(policy: str, reference: bool) -> str:
    return f"{policy} (reference)" if reference else policy


def _html_accuracy(table: AccuracyTable) -> str:
    rows = [f"<tr><th>policy</th>{''.join(f'<th>{escape(attack)}</th>' for attack in table.attacks)}</tr>"]
    for row in table.rows:
        texts = [escape(cell.marked) for cell in row.cells]
        cells = [
            f"<td><b>{t}</b></td>" if c.best else f"<td>{t}</td>"
            for t, c in zip(texts, row.cells, strict=True)
        ]
        name = escape(f"{_named(row.policy, row.reference)} {row.mark}".strip())
        kind = ' class="reference"' if row.reference else ""
        rows.append(f"<tr{kind}><td>{name}</td>{''.join(cells)}</tr>")
    return _html_table(rows)


def _html_section(heading: str, text: str, rows: list[list[str]]) -> list[str]:
    if len(rows) < 2:
        return []
    lines = [f"<tr>{''.join(f'<th>{escape(entry)}</th>' for entry in rows[0])}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{escape(entry)}</td>' for entry in row)}</tr>" for row in rows[1:]]
    return [f"<h3>{heading}</h3>", f'<p class="note">{escape(text)}</p>', _html_table(lines)]


def _html_table(rows: list[str]) -> str:
    body = "\n".join(rows[1:])
    return f'<div class="scroll"><table><thead>{rows[0]}</thead><tbody>\n{body}\n</tbody></table></div>'


def _markdown_accuracy(table: AccuracyTable) -> list[str]:
    rows = [["policy", *table.attacks]]
    for row in table.rows:
        name = f"{_named(row.policy, row.reference)} {row.mark}".strip()
        rows.append([name, *(f"**{cell.marked}**" if cell.best else cell.marked for cell in row.cells)])
    return _markdown_rows(rows)


def _markdown_rows(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(entry.replace("|", "\\|") for entry in row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" + " ---: |" * (len(rows[0]) - 1), *lines[1:]]
