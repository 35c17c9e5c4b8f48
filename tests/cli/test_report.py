import os
import sqlite3

import pytest

from byzgym import agents, attacks
from byzgym.cli import main
from byzgym.experiments import Comparison, compare
from byzgym.experiments.store import NAME


def test_what_is_not_registered_any_more(tmp_path, output):
    agents.register("test_mine", lambda: agents.make("uniform"))
    attacks.register("test_zero", attacks.Zero)
    given = {"policies": ("test_mine", "mean"), "attacks": "test_zero", "seeds": 2, "rounds": 3}
    compare(Comparison(task="synthetic", **given), tmp_path)
    del agents.registry.registry._factories["test_mine"], attacks.registry.registry._factories["test_zero"]
    assert "test_mine" in output("report", tmp_path)


def test_a_report_that_cannot_be_written(tmp_path, mistake):
    compare(Comparison(task="synthetic", rounds=3, seeds=1, policies="mean", attacks="ipm"), tmp_path)
    (tmp_path / "report.md").mkdir()
    assert f"cannot write {tmp_path / 'report.md'}" in mistake("report", tmp_path)


def test_the_shape_of_figures(tmp_path, output, mistake):
    given = {"policies": ("mean", "krum"), "attacks": "ipm", "seeds": 1, "rounds": 3}
    compare(Comparison(task="synthetic", **given), tmp_path)
    text = output("report", tmp_path, "--formats", "svg", "pdf", "--highlight", "krum")
    assert "overview.svg, overview.pdf" in " ".join(text.split())
    assert not (tmp_path / "overview.png").exists()
    assert "](overview.svg)" in (tmp_path / "report.md").read_text()
    assert "#bdbdbd" in (tmp_path / "report.html").read_text()
    assert "unknown policy to highlight 'krumm'" in mistake("report", tmp_path, "--highlight", "krumm")


def test_a_folder_that_cannot_be_written_to_still_shows_its_tables(tmp_path, capsys, monkeypatch):
    compare(Comparison(task="synthetic", rounds=3, seeds=1, policies="mean", attacks="ipm"), tmp_path)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and access(path, mode))
    assert main(["report", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert f"cannot write a report into {tmp_path}: Permission denied; make" in " ".join(shown.err.split())
    assert "worst case" in shown.out


@pytest.mark.parametrize("command", ["report", "export", "replay"])
def test_a_damaged_run_is_named(tmp_path, mistake, command):
    given = {"rounds": 3, "seeds": 2, "policies": "mean", "attacks": "ipm", "num_byzantine": 4}
    compare(Comparison(task="synthetic", **given), tmp_path)
    with sqlite3.connect(tmp_path / NAME) as database:
        (key,) = database.execute("SELECT key FROM runs WHERE seed = 1").fetchone()
        database.execute("UPDATE runs SET curve = substr(curve, 1, 20) WHERE seed = 1")
    database.close()
    words = {"report": [], "export": [tmp_path / "runs.csv"], "replay": [key]}[command]
    error = mistake(command, tmp_path, *words)
    assert f"{tmp_path / NAME} is damaged: the run of mean under ipm, f = 4, seed 1: its curve is no" in error
    assert f"DELETE FROM runs WHERE key = '{key}'" in error
