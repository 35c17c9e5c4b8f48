import json
import os
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from byzgym.experiments import compare
from byzgym.experiments.results import RUN_COLUMNS
from byzgym.experiments.store import NAME, DamagedError, Store, pack, unpack

CURVE = {"round": [0, 1], "accuracy": [0.1, 0.5], "attack_success_rate": [None, None], "qv_loss": [1.5, 2]}
WHOLE = {
    **{name: kind() for name, kind in RUN_COLUMNS.items()},
    **{"configuration": "{}", "versions": "{}", "threat_model": "{}", "curve": json.dumps(CURVE)},
}


def row(key, status="done", **others):
    return {"key": key, "setting": "s", "unit": "u", **WHOLE, "status": status, **others}


def numbers(store):
    return dict(store.table()[["key", "accuracy"]].itertuples(index=False))


def test_what_is_finished_stays(tmp_path):
    with Store(tmp_path, create=True) as store:
        store.add([row("a", accuracy=0.5), row("b", "failed", error="no")], {"u": "[]"})
        assert store.done(["a", "b", "c"]) == {"a"}
        store.add([row("a", accuracy=0.9), row("b", accuracy=0.7)])
        assert numbers(store) == {"a": 0.5, "b": 0.7}
        store.add([row("b", "failed", error="again")])
        assert numbers(store) == {"a": 0.5, "b": 0.7}
    with Store(tmp_path) as store:
        assert store.done(["a", "b"]) == {"a", "b"}


def test_many_keys_at_once(tmp_path):
    keys = [str(number) for number in range(1203)]
    with Store(tmp_path, create=True) as store:
        store.add([row(key) for key in keys[::2]])
        assert store.done(keys) == set(keys[::2])


def test_runs_are_written_together_or_not_at_all(tmp_path):
    with Store(tmp_path, create=True) as store:
        with pytest.raises((ValueError, sqlite3.Error)):
            store.add([row("a"), row("b", curve=object())])
        assert store.done(["a", "b"]) == set()


def test_stores_are_merged(tmp_path):
    rows = {"a": [row("1"), row("2", "failed"), row("3", "failed")], "b": [row("2"), row("4")]}
    for name, own in rows.items():
        with Store(tmp_path / name, create=True) as store:
            store.add(own, {name: "[]"})
    with Store(tmp_path / "c", create=True) as store:
        store.merge([tmp_path / "a", tmp_path / "b", tmp_path / "a"])
        status = dict(store.table()[["key", "status"]].itertuples(index=False))
        assert status == {"1": "done", "2": "done", "3": "failed", "4": "done"}
        with pytest.raises(FileNotFoundError, match="nowhere holds no runs"):
            store.merge([tmp_path / "nowhere"])
    with Store(tmp_path / "a") as store:
        assert store.done("1234") == {"1"}


def test_a_store_that_cannot_be_written_to_is_read(tmp_path, monkeypatch):
    with Store(tmp_path / "a", create=True) as store:
        store.add([row("1", accuracy=0.5)])
    before = (tmp_path / "a" / NAME).read_bytes()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "a" and access(path, mode))
    with Store(tmp_path / "a") as store:
        assert numbers(store) == {"1": 0.5}
        with pytest.raises(
            OSError, match=r"cannot use .*: attempt to write a readonly database; its folder must"
        ):
            store.add([row("2")])
        assert [path.name for path in (tmp_path / "a").iterdir()] == [NAME]
    with Store(tmp_path / "b", create=True) as store:
        store.merge([tmp_path / "a"])
        assert numbers(store) == {"1": 0.5}
    assert (tmp_path / "a" / NAME).read_bytes() == before


def test_two_processes_write_to_one_store(tmp_path):
    code = """
import json, sys
from byzgym.experiments.store import Store
first = int(sys.argv[2])
with Store(sys.argv[1], create=True) as store:
    for number in range(first, first + 40):
        store.add([json.loads(sys.argv[3]) | dict(key=str(number), accuracy=first)])
"""
    command = [sys.executable, "-c", code, str(tmp_path / "new")]
    both = [subprocess.Popen([*command, first, json.dumps(row("key"))]) for first in ("0", "20")]
    assert [process.wait() for process in both] == [0, 0]
    with Store(tmp_path / "new") as store:
        found = numbers(store)
    assert set(found) == {str(number) for number in range(60)}
    assert found["10"] == 0
    assert found["50"] == 20
    assert found["30"] in (0, 20)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"out must be a folder that can be written to, got .*file"):
        Store(tmp_path / "file", create=True)


def test_others_read_it(folder, results):
    """As pandas and DuckDB do: plain tables with the columns of a run and JSON."""
    with sqlite3.connect(folder / NAME) as database:
        query = f"SELECT {', '.join(RUN_COLUMNS)} FROM runs WHERE policy = 'krum' ORDER BY accuracy"
        rows = database.execute(query).fetchall()
        settings = (
            "json_extract(configuration, '$.batch_size'), json_extract(configuration, '$.learning_rate')"
        )
        (setting,) = set(database.execute(f"SELECT {settings} FROM runs").fetchall())
        points = "SELECT json_array_length(curve, '$.round') FROM runs"
        assert set(database.execute(points).fetchall()) == {(21,)}
    database.close()
    assert len(rows) == 4
    assert None not in setting  # defaults are resolved
    credits = results.runs.query("policy == 'krum'")["accuracy"].sort_values().tolist()
    assert [entry[list(RUN_COLUMNS).index("accuracy")] for entry in rows] == credits


def test_credits_are_kept(folder):
    with Store(folder) as store:
        table = store.table()
        key = table.query("policy == 'oracle'")["key"].iloc[0]
        trace = store.credits(key)
        assert trace["credits"].shape == trace["byzantine"].shape == (20, 10)
        assert not trace["credits"][trace["byzantine"]].any()
        assert store.credits(table.query("policy == 'median'")["key"].iloc[0]) == {}
        assert store.credits("nobody") == {}


def test_packing():
    trace = {"credits": np.linspace(0, 1, 7, dtype=np.float16)[None], "byzantine": np.eye(3, dtype=bool)}
    found = unpack(pack(trace))
    for name, values in trace.items():
        assert found[name].dtype == values.dtype
        assert (found[name] == values).all()
    assert pack({}) is None


def test_curves_and_numbers_agree(small, tmp_path):
    results = compare(small(policies="krum"), tmp_path)
    last = results.curves[results.curves["round"] == 20].reset_index(drop=True)
    assert last["accuracy"].tolist() == results.runs["accuracy"].tolist()
    assert last["qv_loss"].tolist() == results.runs["qv_loss"].tolist()


def test_a_database_of_somebody_else_is_refused_and_stays(tmp_path):
    path = tmp_path / "runs.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="it has tables of something else"):
        Store(tmp_path, create=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("curve", '{"round": [0', "its curve is no JSON: "),
        ("curve", "[]", r"its curve must be a mapping, got \[\]"),
        (
            "curve",
            json.dumps(CURVE | {"qv_loss": [1]}),
            "its curve must have a number or null for each point",
        ),
        ("curve", json.dumps(CURVE | {"qv_loss": [1, "x"]}), "its curve must have a number or null"),
        ("configuration", None, "its configuration is no JSON"),
        ("threat_model", "no", "its threat_model is no JSON"),
        ("accuracy", "high", "its accuracy must be a float, got 'high'"),
        ("credits", b"PK no zip", "its credits: "),
    ],
)
def test_a_damaged_run_is_named(tmp_path, column, value, message):
    who = {"policy": "krum", "attack": "ipm", "num_byzantine": 3, "seed": 4}
    with Store(tmp_path, create=True) as store:
        store.add([row("whole"), row("broken", **who, **{column: value})])
        where = f"{tmp_path / NAME} is damaged: the run of krum under ipm, f = 3, seed 4: "
        with pytest.raises(DamagedError, match=message) as raised:
            assert store.credits("broken") if column == "credits" else store.table()
        assert str(raised.value).startswith(where)
        assert str(raised.value).endswith("DELETE FROM runs WHERE key = 'broken'")
        assert store.row("whole")["policy"] == ""
        if column != "credits":
            with pytest.raises(DamagedError):
                store.row("broken")


def test_a_run_that_failed_has_no_numbers(tmp_path):
    with Store(tmp_path, create=True) as store:
        store.add([row("a", "failed", accuracy=None, curve=None, threat_model=None, error="no")])
        assert len(store.table()) == 1
