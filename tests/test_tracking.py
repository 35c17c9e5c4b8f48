"""Trackers, offline: what they have written is read back."""

import json
import math
import sys
import time
from pathlib import Path

import pytest

from byzgym import tracking
from byzgym.cli import main
from byzgym.experiments.store import Store

CONFIGURATION = {
    "policy": "krum",
    "num_byzantine": 3,
    "learning_rate": 0.1,
    "model": None,
    "files": {"a": "b"},
}
COMPARE = ["compare", "--task", "synthetic", "--rounds", "3", "--seeds", "2", "--policies", "mean", "krum"]
COMPARE += ["--attacks", "ipm", "--evaluate-every", "1", "--processes", "1"]


class Recorder:
    """A tracker that keeps all in a list; it may fail at a call."""

    def __init__(self, failing=None):
        self.calls, self.failing = [], failing

    def __getattr__(self, name):
        def call(*arguments):
            if name == self.failing:
                raise ConnectionError("no\nnetwork")
            self.calls.append((name, *arguments))

        return call


@pytest.fixture
def recorder(monkeypatch):
    def use(failing=None):
        one = Recorder(failing)
        monkeypatch.setitem(tracking.KINDS, "tensorboard", lambda folder: one)
        return one

    return use


def log(kind, folder):
    """A run of two steps."""
    problems = []
    (tracker,) = tracking.make([kind], folder, problems.append)
    for name in ("first", "second"):
        tracker.start(name, CONFIGURATION)
        tracker.log(1, {"accuracy": 0.25, "qv_loss": math.nan})
        tracker.log(2, {"accuracy": 0.5, "qv_loss": 1.5})
        tracker.finish({"final/accuracy": 0.5, "final/detection_auc": math.nan})
    assert problems == []


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    log("tensorboard", tmp_path)
    for name in ("first", "second"):
        found = scalars(tmp_path / "tensorboard" / name)
        assert found["accuracy"] == [(1, 0.25), (2, 0.5)]
        assert found["qv_loss"] == [(2, 1.5)]
        assert found["final/accuracy"] == [(0, 0.5)]
        assert set(found) == {"accuracy", "qv_loss", "final/accuracy"}


def test_hyperparameters_of_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    log("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "first"))
    events.Reload()
    content = events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    given = metadata.parse_session_start_info_plugin_data(content).hparams
    assert given["policy"].string_value == "krum"
    assert given["num_byzantine"].number_value == 3
    assert json.loads(given["files"].string_value) == {"a": "b"}


def messages(path):
    """The messages in a file of wandb, which is a log as LevelDB has it, behind a header of 7 bytes."""
    data, place, message = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:  # a block ends with padding where no record fits
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        message += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield message
            message = b""


def wandb_records(folder):
    """Name of the run -> its configuration, history and summary, from the files of runs offline."""
    from wandb.proto.wandb_internal_pb2 import Record

    def values(items):
        return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}

    found = {}
    paths = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    until = time.monotonic() + 30  # wandb's own process may write after the run's end
    while any(path.stat().st_size <= 7 for path in paths) and time.monotonic() < until:
        time.sleep(0.05)
    for path in paths:
        name, config, history, summary = "", {}, [], {}
        for message in messages(path):
            record = Record.FromString(message)
            if record.HasField("run"):
                name = record.run.display_name
                config |= values(record.run.config.update)
                assert record.run.project == "byzgym"
            if row := values(record.history.item):
                kept = {k: v for k, v in row.items() if not k.startswith("_")}
                history.append((record.history.step.num, kept))
            summary |= values(record.summary.update)
        found[name] = config, history, summary
    return found


@pytest.mark.slow
def test_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install byzgym[wandb]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    log("wandb", tmp_path)
    found = wandb_records(tmp_path)
    assert set(found) == {"first", "second"}
    for config, history, summary in found.values():
        assert {name: config[name] for name in CONFIGURATION} == CONFIGURATION
        assert history == [(1, {"accuracy": 0.25}), (2, {"accuracy": 0.5, "qv_loss": 1.5})]
        assert summary["final/accuracy"] == 0.5
        assert "final/detection_auc" not in summary


def check_mlflow(uri):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("byzgym")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == {"first", "second"}
    for run in runs:
        points = client.get_metric_history(run.info.run_id, "accuracy")
        assert [(point.step, point.value) for point in points] == [(1, 0.25), (2, 0.5)]
        assert run.data.metrics == {"accuracy": 0.5, "qv_loss": 1.5, "final/accuracy": 0.5}
        assert run.data.params["policy"] == "krum"
        assert run.data.params["files"] == '{"a": "b"}'
        assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_mlflow_files(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install byzgym[mlflow]")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "server").as_uri())
    log("mlflow", tmp_path / "runs")
    check_mlflow((tmp_path / "server").as_uri())
    assert not (tmp_path / "runs" / "mlflow.db").exists()


@pytest.mark.slow
def test_mlflow_without_a_server(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install byzgym[mlflow]")
    pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed: pip install byzgym[mlflow]")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log("mlflow", tmp_path)
    check_mlflow(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.parametrize(
    ("name", "extra"), [("tensorboard", "train"), ("wandb", "wandb"), ("mlflow", "mlflow")]
)
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, name, extra):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"--track {name} needs {name}: pip install 'byzgym\[{extra}\]'"):
        tracking.make([name], tmp_path, print)


def test_a_missing_package_is_said_before_anything_is_played(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main([*COMPARE, "--track", "wandb", "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'byzgym[wandb]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("failing", ["start", "log", "finish"])
def test_an_error_ends_the_log_of_one_run_alone(tmp_path, recorder, failing):
    one, problems = recorder(failing), []
    (tracker,) = tracking.make(["tensorboard"], tmp_path, problems.append)
    for name in ("first", "second"):
        tracker.start(name, {})
        for step in range(3):
            tracker.log(step, {"x": 1.0})
        tracker.finish({})
    assert problems == [
        f"tensorboard has no more of {name}: ConnectionError: no network" for name in ("first", "second")
    ]
    calls = [call[0] for call in one.calls]
    assert calls == 2 * {"start": [], "log": ["start"], "finish": ["start", "log", "log", "log"]}[failing]


def test_a_comparison_is_logged_run_by_run(tmp_path, recorder, output_of):
    one = recorder()
    output_of(*COMPARE, "--track", "tensorboard", "--out", tmp_path)
    starts = [call for call in one.calls if call[0] == "start"]
    finishes = [call for call in one.calls if call[0] == "finish"]
    with Store(tmp_path) as store:
        rows = store.table().set_index("key")
    assert len(starts) == len(finishes) == len(rows) == 4
    for (_, name, configuration), (_, summary) in zip(starts, finishes, strict=True):
        row = rows.loc[next(key for key in rows.index if key.startswith(name[-8:]))]
        who = f"{row['policy']},ipm,f=7,seed={row['seed']}"
        assert name.startswith(who)
        assert configuration == json.loads(row["configuration"])
        assert summary["final/accuracy"] == row["accuracy"]
        assert summary["final/diverged"] == row["diverged"]
    logged = [call[1:] for call in one.calls if call[0] == "log"]
    assert [step for step, _ in logged] == 4 * [0, 1, 2, 3]
    curves = [json.loads(curve) for curve in rows.loc[rows["policy"] == "mean", "curve"]]
    assert [metrics["accuracy"] for _, metrics in logged[:4]] in [curve["accuracy"] for curve in curves]
    assert set(logged[0][1]) == {"accuracy", "qv_loss"}
    one.calls.clear()
    output_of(*COMPARE, "--track", "tensorboard", "--out", tmp_path)  # what is there is not logged again
    assert one.calls == []


def test_tracking_changes_no_result(tmp_path, recorder, output_of):
    recorder("start")
    tables = []
    for name, words in (("with", ["--track", "tensorboard"]), ("without", [])):
        output_of(*COMPARE, *words, "--out", tmp_path / name)
        with Store(tmp_path / name) as store:
            table = store.table().sort_values("key", ignore_index=True)
        tables.append(table.drop(columns=["seconds", "finished", "machine"]))
    assert tables[0].equals(tables[1])


def test_failed_runs_are_not_logged():
    one = Recorder()
    tracking.log_run([one], {"status": "failed"})
    assert one.calls == []


def test_files_for_tensorboard_of_a_comparison(tmp_path, output_of):
    pytest.importorskip("tensorboard")
    output_of(*COMPARE, "--policies", "nnm+krum:num_byzantine=2", "--track", "tensorboard", "--out", tmp_path)
    folders = sorted(path.name for path in Path(tmp_path, "tensorboard").iterdir())
    assert [name[:-9] for name in folders] == [f"nnm+krum-num_byzantine=2,ipm,f=7,seed={s}" for s in (0, 1)]
    found = scalars(tmp_path / "tensorboard" / folders[0])
    assert [step for step, _ in found["accuracy"]] == [0, 1, 2, 3]


@pytest.fixture
def output_of(capsys):
    def run(*words):
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr()

    return run
