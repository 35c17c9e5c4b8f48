"""What may be written where, and what is left alone."""

import pytest

from byzgym.cli import main
from byzgym.experiments.compare import begin, compare
from byzgym.experiments.comparison import Comparison
from byzgym.experiments.files import write_texts

PLAY = ["compare", "--task", "synthetic", "--rounds", "3", "--seeds", "1", "--policies", "gaa"]
PLAY += ["--attacks", "ipm", "--out"]
OWN = ["final_figure.png", "accuracy_fashion.png", "credits_f.png", "final_f7.png.png", "notes.txt"]


def small():
    return Comparison(task="synthetic", rounds=3, seeds=1, policies=("mean",), attacks=("ipm",))


def one_line(capsys):
    captured = capsys.readouterr().err
    assert len(captured.splitlines()) == 1
    return captured


@pytest.mark.parametrize("overwrite", [False, True])
def test_ones_own_files_are_neither_results_nor_removed(tmp_path, overwrite):
    for name in OWN:
        (tmp_path / name).write_text("mine")
    compare(small(), tmp_path, overwrite)
    compare(small(), tmp_path, overwrite=True)
    assert all((tmp_path / name).read_text() == "mine" for name in OWN)


@pytest.mark.parametrize("name", ["report.md", "overview.png", "final_f3.png"])
def test_files_named_as_results_are_told_by_their_names(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(
        FileExistsError, match=rf"holds no results, but files named as theirs, {name}; choose"
    ):
        begin(small(), tmp_path)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["overview.png", "report.html", "results.csv", "credits_f7.png"])
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_folders_in_the_way_are_told_before_playing(tmp_path, name, overwrite, capsys, monkeypatch):
    monkeypatch.setattr("byzgym.experiments.compare.play", lambda *_: pytest.fail("played"))
    (tmp_path / name).mkdir()
    assert main([*PLAY, str(tmp_path), *overwrite]) == 2
    assert one_line(capsys) == f"byzgym: {tmp_path / name} is a folder, where a file is to be written\n"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["overview.png", "report.md"])
def test_a_report_that_cannot_be_written_is_one_line(tmp_path, name, capsys):
    assert main([*PLAY, str(tmp_path)]) == 0
    capsys.readouterr()
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert main(["report", str(tmp_path)]) == 2
    assert name in one_line(capsys)
    assert not list(tmp_path.glob("*.partial"))


def test_texts_are_written_all_or_none_and_leave_nothing_beside_them(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("before")
    (tmp_path / "b").mkdir()
    texts = {tmp_path / "a": "after", tmp_path / "b": "after"}
    with pytest.raises(IsADirectoryError, match="b is a folder"):
        write_texts(texts)
    assert (tmp_path / "a").read_text() == "before"

    def refuse(*_):
        raise OSError("no")

    (tmp_path / "b").rmdir()
    monkeypatch.setattr("byzgym.experiments.files.os.replace", refuse)
    with pytest.raises(OSError, match="no"):
        write_texts(texts)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "before"


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*PLAY, str(tmp_path / "file" / "below")]) == 2
    assert "out must be a folder that can be written to, got" in one_line(capsys)
