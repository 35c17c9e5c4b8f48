import dataclasses
import json

import pandas as pd
import pytest

from byzgym.experiments import Comparison, compare
from byzgym.experiments.results import CURVE_COLUMNS, Results, claim

HEADER = (
    "task,model,policy,attack,roles,partition,num_classes,num_workers,num_byzantine,seed,rounds,accuracy,"
    "qv_loss,byzantine_credit,detection_auc,diverged,seconds,version"
)
OWN = ["final_figure.png", "accuracy_fashion.png", "credits_f.png", "final_f7.png.png", "notes.txt"]


@pytest.fixture
def tiny(small):
    return small(rounds=3, seeds=1, policies="mean", attacks="ipm")


@pytest.fixture
def copied(folder, tmp_path):
    for name in ("results.csv", "curves.csv", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    return tmp_path


def test_columns_of_the_files(folder):
    lines = (folder / "results.csv").read_text().splitlines()
    assert lines[0] == HEADER
    assert len(lines) == 1 + 5 * 2 * 2
    curves = pd.read_csv(folder / "curves.csv")
    assert list(curves.columns) == [name for name in CURVE_COLUMNS if name != "attack_success_rate"]
    assert curves["round"].unique().tolist() == list(range(21))


def test_what_is_read_is_what_was_written(folder, results):
    read = Results.read(folder)
    pd.testing.assert_frame_equal(read.runs, results.runs, check_dtype=False)
    pd.testing.assert_frame_equal(read.curves, results.curves, check_dtype=False)
    for name in ("comparison", "told", "references", "versions"):
        assert getattr(read, name) == getattr(results, name)
    config = json.loads((folder / "config.json").read_text())
    assert Comparison(**config["arguments"]) == results.comparison
    assert set(config["versions"]) == {"byzgym", "torch", "numpy", "gymnasium", "python"}


def test_no_credits_are_blank(folder):
    runs = Results.read(folder).runs.set_index("policy")
    assert runs.loc["median", ["byzantine_credit", "detection_auc"]].isna().all(axis=None)
    assert (runs.loc["oracle", "byzantine_credit"] == 0).all()
    assert (runs.loc["oracle", "detection_auc"] == 1).all()


def test_references_come_last(results):
    reordered = dataclasses.replace(results, references=["mean", "oracle"])
    assert reordered.played(7) == ["krum", "median", "gaa", "mean", "oracle"]
    assert reordered.played(3) == []


def test_a_folder_belongs_to_one_comparison(tiny, tmp_path):
    with claim(tmp_path / "new"):
        with pytest.raises(OSError, match=r"another comparison .* is writing to .*new"):
            compare(tiny, tmp_path / "new")
        assert not (tmp_path / "new" / "results.csv").exists()
    assert len(compare(tiny, tmp_path / "new").runs) == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_ones_own_files_stay(tiny, tmp_path, overwrite):
    for name in OWN:
        (tmp_path / name).write_text("mine")
    compare(tiny, tmp_path, overwrite)
    compare(tiny, tmp_path, overwrite=True)
    assert all((tmp_path / name).read_text() == "mine" for name in OWN)


@pytest.mark.parametrize("name", ["report.md", "overview.png", "final_f3.png"])
def test_earlier_drawings_are_results(tiny, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=rf"already holds results \({name}\); choose"):
        compare(tiny, tmp_path)
    compare(tiny, tmp_path, overwrite=True)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["results.csv", "curves.csv", "config.json"])
def test_missing_files(copied, name):
    (copied / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds no results: {name} is missing"):
        Results.read(copied)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results.csv", ""),
        ("results.csv", "a,b\n1,2\n"),
        ("curves.csv", ",".join(CURVE_COLUMNS) + "\na,b,3,0,0,high,1\n"),
        ("config.json", "{"),
        ("config.json", '{"arguments": {"nothing": 1}}'),
    ],
)
def test_files_that_hold_something_else(copied, name, text):
    (copied / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        Results.read(copied)
