import dataclasses
import os
import sqlite3

import pandas as pd
import pytest

from byzgym import attacks
from byzgym.attacks.transmission import Gambler
from byzgym.experiments import Comparison, compare, report
from byzgym.experiments.drawings import make_room
from byzgym.experiments.grid import Grid
from byzgym.experiments.results import CURVE_COLUMNS, RUN_COLUMNS, Results
from byzgym.experiments.store import NAME
from byzgym.files import WriteError

OWN = ["final_figure.png", "accuracy_fashion.png", "credits_f.png", "final_f7.png.png", "notes.txt"]


@pytest.fixture
def tiny(small):
    return small(rounds=3, seeds=1, policies="mean", attacks="ipm")


def test_columns(results):
    assert list(results.runs) == list(RUN_COLUMNS)
    assert list(results.curves) == list(CURVE_COLUMNS)
    assert len(results.runs) == len(results.expected) == 5 * 2 * 2
    assert results.curves["round"].unique().tolist() == list(range(21))


def test_what_is_read_is_what_was_returned(folder, results):
    read = Results.read(folder)
    pd.testing.assert_frame_equal(read.runs, results.runs)
    pd.testing.assert_frame_equal(read.curves, results.curves)
    for name in ("comparison", "told", "references", "versions"):
        assert getattr(read, name) == getattr(results, name)
    assert set(read.versions) == {"byzgym", "torch", "numpy", "gymnasium", "python"}


def test_no_credits_are_missing_values(folder):
    runs = Results.read(folder).runs.set_index("policy")
    assert runs.loc["median", ["byzantine_credit", "detection_auc"]].isna().all(axis=None)
    assert (runs.loc["oracle", "byzantine_credit"] == 0).all()
    assert (runs.loc["oracle", "detection_auc"] == 1).all()


def test_references_come_last(results):
    reordered = dataclasses.replace(results, references=["mean", "oracle"])
    assert reordered.played(7) == ["krum", "median", "gaa", "mean", "oracle"]
    assert reordered.played(3) == []


def test_the_command_plays_what_was_asked_for_and_no_more(small, tmp_path):
    def lines(**changes):
        return compare(small(rounds=1, **changes), tmp_path).command.splitlines()

    only = lines(policies="mean", attacks="ipm", seeds=2)
    assert len(only) == 1
    assert only[0].startswith("byzgym compare ")
    gap = lines(policies="mean", attacks="ipm", seeds=1, first_seed=5)
    assert gap[0] == only[0]
    assert "--first-seed 5" in gap[1]
    assert len(gap) == 2
    other = lines(policies="krum", attacks="alie", seeds=2)
    assert other[:2] == gap
    assert "krum" in other[2]
    (whole,) = lines(policies=("mean", "krum"), attacks=("ipm", "alie"), seeds=6)
    assert "--seeds 6" in whole
    assert "krum" in whole


@pytest.mark.parametrize("overwrite", [False, True])
def test_ones_own_files_stay(tiny, tmp_path, overwrite):
    for name in OWN:
        (tmp_path / name).write_text("mine")
    compare(tiny, tmp_path, overwrite)
    compare(tiny, tmp_path, overwrite=True)
    assert all((tmp_path / name).read_text() == "mine" for name in OWN)


@pytest.mark.parametrize("name", ["report.md", "overview.png", "final_f3.png", "threat_model.json"])
def test_earlier_drawings_are_results(tiny, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=rf"already holds reports and no {NAME} \({name}\); choose"):
        compare(tiny, tmp_path)
    compare(tiny, tmp_path, overwrite=True)
    assert not (tmp_path / name).exists()


def test_a_folder_without_a_store(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"holds no runs: {NAME} is missing"):
        Results.read(tmp_path)


@pytest.mark.parametrize("content", [b"no database" * 100, None])
def test_a_file_that_is_no_store(tmp_path, content):
    if content:
        (tmp_path / NAME).write_bytes(content)
    else:
        with sqlite3.connect(tmp_path / NAME) as database:
            database.execute("PRAGMA user_version=99")
        database.close()
    with pytest.raises(ValueError, match=NAME):
        Results.read(tmp_path)


def test_what_earlier_commands_asked_for_is_missing(small, tmp_path):
    """A report shows all that was asked for in a setting, and says that the last command is finished."""
    first, last = small(rounds=3, seeds=2), small(rounds=3, seeds=1, policies="mean")
    grid = Grid.plan([first], tmp_path)
    with grid.open():
        pass  # interrupted at once
    results = compare(last, tmp_path)
    assert results.last_is_finished
    assert results.unfinished == "2 of 12 runs; earlier commands asked for the rest"
    page = report.html(results)
    assert "<b>Unfinished: 2 of 12 runs</b>" in page
    assert "Earlier commands asked for the rest, and go on if given again." in page
    with grid.open():  # once more: now this is the last one
        again = Results.read(tmp_path)
    assert not again.last_is_finished
    assert again.unfinished == "2 of 12 runs"
    assert "The same command again goes on." in report.html(again)


@pytest.mark.parametrize("broken", ["access", "unlink"])
def test_a_folder_for_reports_that_cannot_be_written_to(tmp_path, monkeypatch, broken):
    (tmp_path / "report.md").write_text("old")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    if broken == "access":
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    else:
        monkeypatch.setattr(type(tmp_path), "unlink", refuse)
    told = rf"cannot write a report into {tmp_path}: Permission denied; make the folder writable, or report a"
    with pytest.raises(WriteError, match=told):
        make_room(tmp_path)
    assert (tmp_path / "report.md").exists()


FAULT = "gambler:probability=0.01"


@pytest.mark.parametrize(
    ("named", "roles", "heading"),
    [
        (("ipm", "bit_flip"), "static", "3 of 10 workers Byzantine"),
        (("ipm", FAULT), "static", f"3 of 10 workers Byzantine (none under {FAULT})"),
        (
            ("ipm", FAULT),
            "fluctuating",
            "3 of 10 workers assigned to be Byzantine, roles fluctuating (none under",
        ),
        ((FAULT,), "static", "faults in transmission, none of 10 workers Byzantine, rules told f = 3"),
        (("not_registered",), "static", "3 of 10 workers Byzantine"),
    ],
)
def test_headings_know_faults_in_transmission(named, roles, heading):
    comparison = Comparison(attacks=named, roles=roles, num_byzantine=3)
    assert Results(comparison).heading(3).startswith(heading)


def test_a_heading_of_one_attack():
    results = Results(Comparison(attacks=("ipm", FAULT), num_byzantine=3))
    assert results.heading(3, ["ipm"]) == "3 of 10 workers Byzantine"
    assert "none of 10 workers Byzantine" in results.heading(3, [FAULT])


class MyFault(Gambler):
    """An attack of a user's."""


def test_results_know_a_fault_whose_code_is_not_there(small, tmp_path, monkeypatch):
    attacks.register("my_fault", MyFault)
    played = compare(small(rounds=2, seeds=1, policies="mean", attacks=("my_fault", "ipm")), tmp_path)
    assert played.faults == ["my_fault"]
    monkeypatch.delitem(attacks.registry.registry._factories, "my_fault")
    read = Results.read(tmp_path)
    assert read.faults == ["my_fault"]
    assert "none of" in read.heading(3, ["my_fault"])
    assert "none Byzantine" in read.panel(["my_fault"], [3])
