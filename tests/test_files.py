import os

import pytest

from byzgym import files


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "model.zip"
    path.write_text("before")
    with files.write_whole(path) as temporary:
        assert temporary.suffix == ".zip"
        temporary.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "disk full"), RuntimeError("disk full"), KeyboardInterrupt()])
def test_a_failure_names_the_file_and_keeps_it(tmp_path, error):
    path = tmp_path / "a"
    path.write_text("before")

    def fail():
        with files.write_whole(path) as temporary:
            temporary.write_text("half")
            raise error

    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            fail()
    else:
        with pytest.raises(OSError, match=f"^cannot write {path}: disk full"):
            fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_texts_are_written_all_or_none(tmp_path):
    (tmp_path / "a").write_text("before")
    (tmp_path / "b").mkdir()
    missing = tmp_path / "nowhere" / "c"
    for path, why in ((tmp_path / "b", "Is a directory"), (missing, "No such file")):
        with pytest.raises(OSError, match=f"^cannot write {path}: {why}"):
            files.write_texts({tmp_path / "a": "after", path: "after"})
        assert (tmp_path / "a").read_text() == "before"
    files.write_texts({tmp_path / "a": "after", tmp_path / "c": "é"})
    assert (tmp_path / "c").read_text(encoding="utf-8") == "é"


def test_a_folder_is_locked_once(tmp_path):
    folder = tmp_path / "new" / "below"
    with files.lock(folder):
        with pytest.raises(OSError, match=f"is writing to {folder}; wait"), files.lock(folder):
            pytest.fail("two hold one folder")
        with files.lock(tmp_path):
            pass
    with files.lock(folder):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            pytest.raises(OSError, match="out must be a folder that can be written to, got"),
            files.lock(folder),
        ):
            pass


def test_a_file_is_on_the_disk_before_it_replaces_another(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: done.append(os.fstat(number).st_size) or fsync(number))
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("replace") or replace(*paths))
    files.write_texts({tmp_path / "a": "five!"})
    assert done == [5, "replace"]
