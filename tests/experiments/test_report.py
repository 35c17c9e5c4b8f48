import dataclasses
import io
import re
from html import unescape
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from byzgym.experiments import Comparison, compare, report, traces
from byzgym.experiments.figures import credits
from byzgym.experiments.figures.style import BEST, Palette
from byzgym.experiments.results import Told
from byzgym.experiments.tables import Cell, Row, Table, accuracy_table, detection_table, difference_table


def shown(results, width=120, encoding="utf-8", **options):
    """What a console of this encoding shows."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    console = Console(file=stream, width=width, **options)
    report.show(results, console)
    return stream.buffer.getvalue().decode(encoding)


def renamed(results, policy, name):
    """The results with another name for a policy."""
    policies = tuple(name if one == policy else one for one in results.comparison.policies)
    comparison = dataclasses.replace(results.comparison, policies=policies)
    tables = {one: getattr(results, one).replace(policy, name) for one in ("runs", "curves", "expected")}
    return dataclasses.replace(results, comparison=comparison, **tables)


def bold(results):
    """The entries that Markdown shows in bold."""
    return report.markdown(results, []).split("**")[1::2]


def test_figures_and_reports(results, tmp_path):
    files = report.write(results, tmp_path)
    assert [path.name for path in files][-2:] == ["report.html", "report.md"]
    html = (tmp_path / "report.html").read_text()
    assert "byzgym compare --task synthetic" in html
    assert results.versions["torch"] in html
    markdown = (tmp_path / "report.md").read_text()
    assert "](overview.png)" in markdown
    for text in (html, markdown):
        assert all(part in text for part in ("oracle (reference)", "told f = 3", "Paired differences"))


def test_the_best_is_bold_in_every_form(results):
    html, terminal = report.html(results), shown(results, force_terminal=True, color_system="standard")
    assert bold(results)
    for entry in bold(results):
        assert f"<b>{entry}</b>" in html
        assert re.search(rf"\[1;32m *{re.escape(entry)}", terminal)
    assert terminal.lower().count("best in bold") == 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"force_terminal": True, "color_system": None},
        {"force_terminal": True, "color_system": "standard", "no_color": True},
    ],
)
def test_a_table_without_colour_marks_the_best(results, options):
    text = shown(results, **options)
    assert text.lower().count("best marked *") == 2
    assert text.count("*") == 2 + len(bold(results))


def test_an_ascii_table(results):
    text = shown(results, encoding="ascii")
    assert "krum (1)" in text
    assert "+-" in text


def test_the_table_fits_its_width(results):
    text = shown(results, width=80)
    assert "…" not in text
    assert "oracle (reference)" in text
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("policy ") == 2  # the heading of each table, which is in one piece
    assert text.index("worst case") < text.index("sign_flip")


def test_many_attacks_are_split():
    names = [f"attack_number_{i}" for i in range(8)]
    table = Table("title", ["policy", *names], [], [Row("mean", [Cell("90.0 ± 1.0")] * 8, False)])
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(report.for_terminal(table, 60))
    text = console.export_text()
    assert "…" not in text
    assert all(name in text for name in names)


def test_several_numbers_of_byzantine_workers(small, tmp_path):
    results = compare(small(num_byzantine=(0, 3), policies=("mean", "oracle"), rounds=5), tmp_path)
    assert results.runs["num_byzantine"].unique().tolist() == [0, 3]
    assert results.runs.query("num_byzantine == 0")["detection_auc"].isna().all()
    names = {path.name for path in report.write(results, tmp_path)}
    assert {"accuracy_f0.png", "accuracy_f3.png", "overview.png"} <= names
    assert "3 of 10 workers" in shown(results)


def test_backdoors_have_a_table_of_their_success(tmp_path):
    comparison = Comparison(
        policies=("mean", "krum"), attacks=("zero", "backdoor:size=2"), task="synthetic", num_workers=6,
        num_byzantine=2, rounds=3, seeds=2, cohort_size=5, local_steps=2,
    )  # fmt: skip
    text = report.markdown(compare(comparison, tmp_path), [])
    lines = text.split("### Success of backdoors")[1].splitlines()
    row = next(line for line in lines if line.startswith("| krum"))
    assert 0 <= float(row.split("|")[2]) <= 100
    assert "| policy | backdoor:size=2 |" in text
    assert "6 workers, of which 5 take part in a round, 2 local steps, partition iid" in text


def test_faults_in_transmission(small, tmp_path):
    """Nobody is Byzantine, so there is nobody to detect, and the oracle is what a clean mean would be."""
    fault = "gambler:probability=0.01"
    both = small(attacks=("sign_flip", fault), policies=("mean", "uniform", "oracle"), rounds=10, seeds=1)
    results = compare(both, tmp_path / "both")
    runs = results.runs.set_index(["attack", "policy"])
    assert runs.loc[fault, ["byzantine_credit", "detection_auc"]].isna().all(axis=None)
    assert runs.loc["sign_flip", "detection_auc"].notna().all()
    clean = compare(
        small(attacks="none", policies="mean", rounds=10, seeds=1, num_byzantine=0), tmp_path / "none"
    )
    assert runs.loc[(fault, "oracle"), "qv_loss"] == pytest.approx(clean.runs["qv_loss"].item(), rel=1e-4)
    accuracy, detection = accuracy_table(results, 7), detection_table(results, 7)
    assert f"7 of 10 workers Byzantine (none under {fault})" in accuracy.title
    note = f"{fault}: faults in transmission hit any worker; no worker is Byzantine"
    assert f"{note}, and the oracle is the mean of what they sent" in accuracy.notes
    assert [row.cells[1].text for row in detection.rows] == ["– / –"] * 3
    figure = credits.detection(results, 7, Palette(results))
    assert figure.axes[0].get_legend_handles_labels()[1] == ["equal credits", "sign_flip"]
    alone = dataclasses.replace(
        results,
        comparison=dataclasses.replace(both, attacks=(fault,)),
        runs=results.runs[results.runs["attack"] == fault],
        curves=results.curves[results.curves["attack"] == fault],
    )
    assert credits.detection(alone, 7, Palette(results)) is None
    assert {trace.policy for trace in traces.read(alone, 7)} == {"mean", "uniform"}  # the oracle gives none
    page = unescape(report.html(results)).replace("\xa0", " ")
    assert f">{fault}, none Byzantine, rules told f = 7<" in page
    assert f">{fault}, f = 7" not in page
    assert "none of 10 workers Byzantine" in report.markdown(alone, [])
    assert not detection_table(alone, 7).rows


ODD = ["a|b", "`c`", "<i>d</i>", "e&amp;", "*f*", "_g_", "[h](i)", "![j](k)", "l\\|m", "# n", "1. o", "$p$"]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_in_markdown(results, name):
    """A reader of the rendered page sees every name as it is, in headings, tables and notes."""
    changed = renamed(results, "krum", name)
    notes, told = [f"{name} was trained otherwise"], [Told(name, 7, 3, name)]
    changed = dataclasses.replace(changed, notes=notes, told=told)
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(report.markdown(changed, []))
    inline = [token for token in tokens if token.type == "inline"]
    texts = ["".join(part.content for part in token.children) for token in inline]
    assert texts.count(f"{name} ¹") == 1
    assert name in texts
    assert any(f"{name} was trained otherwise" in text for text in texts)
    assert any(f"needs {name}" in text for text in texts)
    parts = {part.type for token in inline for part in token.children}
    assert not parts & {"html_inline", "em_open", "image", "link_open", "s_open"}


def test_commands_with_backticks_end_no_block(results):
    imported = dataclasses.replace(results, imports=["```"])
    tokens = MarkdownIt("commonmark").parse(report.markdown(imported, []))
    (block,) = [token for token in tokens if token.type == "fence"]
    assert block.content.strip() == imported.command


def test_captions_of_one_seed_speak_of_no_intervals(results):
    one = results.runs["seed"] == 0
    single = dataclasses.replace(
        results,
        comparison=dataclasses.replace(results.comparison, seeds=1),
        runs=results.runs[one],
        curves=results.curves[results.curves["seed"] == 0],
        expected=results.expected[results.expected["seed"] == 0],
    )
    assert any("t interval" in note for note in difference_table(results, 7).notes)
    (note,) = difference_table(single, 7).notes
    assert note.endswith("averaged within a seed; one seed gives no intervals.")
    page = report.html(single)
    assert "bands are one standard deviation" not in page.lower()
    assert "±" not in page.split("<script>")[0]


@pytest.mark.parametrize(
    ("seeds", "note"),
    [
        ((), "(0 of 2): so many runs of a cell are finished"),
        ((0,), "(1 of 2): so many runs of a cell are finished, and its"),
    ],
)
def test_the_note_on_unfinished_cells_is_about_one_of_them(results, seeds, note):
    cell = (results.runs["policy"] == "krum") & (results.runs["attack"] == "sign_flip")
    part = dataclasses.replace(results, runs=results.runs[~cell | results.runs["seed"].isin(seeds)])
    table = accuracy_table(part, 7)
    entries = [entry.text for row in table.rows for entry in row.cells if " of 2)" in entry.text]
    assert len(entries) == 1
    (found,) = [line for line in table.notes if "so many runs" in line]
    assert found.startswith(note)
    assert entries[0].endswith(found.split(":")[0])


def test_a_report_of_many_policies_says_who_is_in_colour(many, results):
    page = report.html(many)
    told = f"In colour are the {BEST} policies of the best worst case (mean over f), and references."
    assert page.count(told) == 2  # curves and profiles
    assert told not in report.html(results)
    legends = re.findall(r'<div class="legend">(.*?)</div>', page)
    assert [legend.count("<button") for legend in legends[:2]] == [BEST + 2] * 2
    figure = Path("overview.png")
    assert "In colour are highlighted policies, or the 6" in report.markdown(many, [figure])
    assert "In colour" not in report.markdown(results, [figure])
