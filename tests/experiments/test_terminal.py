"""What the commands print: names as they are, in any encoding, and what an interruption leaves."""

import os
import shlex
import subprocess
import sys

import pytest

from byzgym import agents, aggregation, attacks
from byzgym.cli import main
from byzgym.experiments import listing, tables
from byzgym.experiments.comparison import Comparison
from byzgym.experiments.policies import Told
from byzgym.experiments.records import Records
from byzgym.experiments.terminal import plain_console, progress

PLAY = ["compare", "--task", "synthetic", "--rounds", "3", "--seeds", "2", "--policies", "krum"]
PLAY += ["--attacks", "ipm", "--out"]
COMMAND = [sys.executable, "-m", "byzgym.cli"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_output_lacks(tmp_path, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    run = subprocess.run([*COMMAND, *PLAY, str(tmp_path)], capture_output=True, env=environment, check=False)
    assert (run.returncode, run.stderr) == (0, b"")
    assert b"krum ?" in run.stdout or "krum ¹".encode(encoding) in run.stdout
    assert (tmp_path / "report.html").exists()


def test_an_output_that_nobody_reads(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        [*COMMAND, *PLAY, str(tmp_path)], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (run.returncode, run.stderr) == (1, b"")
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "overview.png").exists()


@pytest.mark.parametrize("name", ["res[/foo]", "res[bold]x", "a:smile:b"])
def test_paths_are_printed_as_they_are(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert main([*PLAY, name]) == 0
    assert f"{name}: results.csv" in capsys.readouterr().out
    assert main(["report", name]) == 0
    assert f"{name}: overview.png" in capsys.readouterr().out


def test_names_are_printed_as_they_are(tmp_path, capsys):
    agents.register("[red]mine", lambda: agents.make("mean"))
    aggregation.register("[/rule]", lambda: lambda gradients: gradients.mean(-2))
    attacks.register("[/attack]", lambda: lambda gradients, byzantine, context: gradients)
    names = ["--policies", "[red]mine", "[/rule]", "--attacks", "[/attack]", "--out", str(tmp_path / "out")]
    assert main([*PLAY[:-1], *names]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("[red]mine", "[/rule]", "[/attack]"))
    for kind, name in (("agents", "[red]mine"), ("rules", "[/rule]"), ("attacks", "[/attack]")):
        assert main(["list", kind]) == 0
        assert name in capsys.readouterr().out
    play = ["evaluate", "--task", "synthetic", "--rounds", "3", "--episodes", "1", "--attack", "[/attack]"]
    assert main(play) == 0
    assert "[/attack]" in capsys.readouterr().out


def test_tables_do_not_depend_on_the_console(capsys):
    from rich.console import Console

    aggregation.register("[/rule]", lambda: lambda gradients: gradients.mean(-2))
    listing.show("rules", Console())
    row = tables.Row("[/rule]", "", [tables.Cell("90.0")], False)
    Console().print(tables.for_terminal(tables.AccuracyTable("title", ["[/attack]"], [row]), 80))
    shown = capsys.readouterr().out
    assert shown.count("[/rule]") == 2
    assert "[/attack]" in shown


def test_the_bar_of_progress_takes_any_name(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich draws no bar where the output is no terminal
    with progress(plain_console(), 2) as advance:
        advance("[/red]mine", 1)
        advance("[/red]mine", 1)
    assert "[/red]mine" in capsys.readouterr().out


def interrupt(*_):
    raise KeyboardInterrupt


def test_an_interruption_quotes_the_folder(tmp_path, capsys, monkeypatch):
    from byzgym.experiments import compare

    play_batch, out = compare.play_batch, tmp_path / "my results"
    monkeypatch.setattr(
        compare, "play_batch", lambda c, p, *_: interrupt() if p == "krum" else play_batch(c, p, 7)
    )
    play = [*PLAY[:-3], "--policies", "mean", "krum", "--attacks", "ipm", "--out", str(out)]
    assert main(play) == 130
    told = capsys.readouterr().err
    assert f"what was finished is in {out}, and `byzgym report {shlex.quote(str(out))}` shows it" in told


@pytest.mark.parametrize("command", ["compare", "report"])
def test_an_interruption_while_figures_are_drawn(tmp_path, capsys, monkeypatch, command):
    out = tmp_path / "my results"
    if command == "report":
        assert main([*PLAY, str(out)]) == 0
    monkeypatch.setattr("byzgym.experiments.report.draw", interrupt)
    capsys.readouterr()
    assert main([*PLAY, str(out)] if command == "compare" else ["report", str(out)]) == 130
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert f"are complete, and `byzgym report {shlex.quote(str(out))}` draws the figures" in told
    assert len(Records.read(out).results) == 2


def test_footnotes_are_of_policies_that_were_played():
    comparison = Comparison(task="synthetic", policies=("mean", "krum", "median"), attacks=("ipm",), seeds=1)
    told = [Told("krum", 7, 3, "n >= 2f + 3"), Told("median", 7, 4, "n >= 2f + 1")]
    records = Records.begin(comparison, told)
    kept = {"attack": "ipm", "num_byzantine": 7, "seed": 0, "accuracy": 0.5, "diverged": False}
    records.add([{**kept, "policy": policy} for policy in ("mean", "median")], [])
    table = tables.accuracy_table(records, 7)
    assert [row.mark for row in table.rows] == ["", "¹"]
    assert table.footnotes == ["¹ told f = 4, the largest it accepts (needs n >= 2f + 1)"]


def test_the_author_of_an_error_is_named(capsys):
    attacks.register("test_typo", lambda: lambda gradients, byzantine, context: gradients + "x")
    assert main([*PLAY[:-1], "--attacks", "test_typo"]) == 2
    told = capsys.readouterr().err
    assert "unsupported operand" in told
    assert "(raised by attack <function" in told
