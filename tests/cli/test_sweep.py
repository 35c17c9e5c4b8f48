import json
import sys
from urllib.parse import quote

import duckdb
import pandas as pd
import pytest

from byzgym.cli import main
from byzgym.experiments import play
from byzgym.experiments.results import RUN_COLUMNS

GRID = """
task = "synthetic"
rounds = 3
seeds = 2
policies = ["mean", "krum"]
attacks = ["ipm"]
[grid]
qv_size = [5, 10]
"""
DEFAULTS = "task=synthetic,rounds=3"
PLACES = {5: "task=synthetic,qv_size=5,rounds=3", 10: DEFAULTS}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return path


def test_a_sweep_has_a_report_for_each_setting(file, tmp_path, output):
    out = tmp_path / "out"
    text = output("sweep", file, "--out", out, "--processes", 1)
    for size, place in PLACES.items():
        assert f"qv_size={size}" in text
        assert (out / place / "report.html").exists()
        assert f'href="{quote(place)}/report.html"' in (out / "report.html").read_text()
        assert f"(<{place}/report.md>)" in (out / "report.md").read_text()
    assert (out / "settings.png").exists()
    again = output("report", out)
    assert again.split() == text.split()


def test_what_is_added_later_keeps_the_folders(file, tmp_path, output):
    """Another attack in one setting, and one more setting, leave the reports of the others where they are."""
    out = tmp_path / "out"
    output("sweep", file, "--out", out, "--processes", 1)
    file.write_text(
        GRID.replace('["ipm"]', '["ipm", "alie"]').replace("[5, 10]", "[10]\nmomentum = [0.0, 0.5]")
    )
    output("sweep", file, "--out", out, "--processes", 1)
    output("report", out)
    assert {path.name for path in out.iterdir() if path.is_dir()} == {
        *PLACES.values(),
        "task=synthetic,momentum=0.5,rounds=3",
    }


def test_a_sweep_goes_on(file, tmp_path, capsys, output, monkeypatch):
    play_batch, played = play.play_batch, []

    def interrupted(comparison, policy, *rest):
        played.append((comparison.qv_size, policy))
        if len(played) == 3:
            raise KeyboardInterrupt
        return play_batch(comparison, policy, *rest)

    monkeypatch.setattr(play, "play_batch", interrupted)
    command = ["sweep", str(file), "--out", str(tmp_path / "out"), "--processes", "1"]
    assert main(command) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "out")]) == 0
    assert "unfinished: 0 of 4 runs" in capsys.readouterr().err
    output(*command)
    assert played == [(5, "mean"), (5, "krum"), (10, "mean"), (10, "mean"), (10, "krum")]


def test_a_mistake_names_the_file(file, tmp_path, mistake):
    file.write_text("[grid]\nqv_size = [5, 100000]\n")
    assert "qv_size" in mistake("sweep", file, "--out", tmp_path / "out")
    file.write_text("nothing = 1")
    assert "grid.toml: unknown key 'nothing'" in mistake("sweep", file)


def test_an_export_has_the_runs_and_their_settings(file, tmp_path, output, mistake):
    out, table, curves = tmp_path / "out", tmp_path / "runs.csv", tmp_path / "curves.csv"
    output("sweep", file, "--out", out, "--processes", 1)
    text = output("export", out, table, "--curves", curves)
    assert f"{table}: 8 runs" in text
    runs, points = pd.read_csv(table), pd.read_csv(curves)
    assert list(runs.columns[: len(RUN_COLUMNS)]) == list(RUN_COLUMNS)
    assert runs["qv_size"].value_counts().to_dict() == {5: 4, 10: 4}
    assert (runs["status"] == "done").all()
    assert runs["batch_size"].notna().all()
    assert len(points) == 8 * 4
    last = points[points["round"] == 3].set_index("key")["accuracy"]
    assert runs.set_index("key")["accuracy"].sort_index().tolist() == last.sort_index().tolist()
    records = out / PLACES[5] / "threat_model.json"
    assert {len(json.loads(records.read_text())["records"]), len(list(out.glob("*/threat_model.md")))} == {2}
    for name in ("records.json", "records.md"):
        assert "4 threat models" in output("export", out, tmp_path / name)
    assert len(json.loads((tmp_path / "records.json").read_text())["records"]) == 4
    assert "must end in .csv or .parquet or .json or .md" in mistake("export", out, tmp_path / "runs.txt")
    assert "holds no runs" in mistake("export", tmp_path, table)


def test_runs_and_curves_go_to_files_of_their_own(file, tmp_path, output, mistake):
    out, table = tmp_path / "out", tmp_path / "runs.csv"
    output("sweep", file, "--out", out, "--processes", 1)
    assert "curves must be another file" in mistake("export", out, table, "--curves", table)


def test_an_export_to_parquet(file, tmp_path, output):
    """DuckDB and pandas read it, also where a setting is a number in some runs and a schedule in others."""
    file.write_text(GRID + 'learning_rate = [0.1, {initial = 0.1, schedule = "cosine"}]\n')
    out, table, curves = tmp_path / "out", tmp_path / "runs.parquet", tmp_path / "curves.parquet"
    output("sweep", file, "--out", out, "--processes", 1)
    output("export", out, table, "--curves", curves)
    runs = pd.read_parquet(table)
    assert len(runs) == 16
    assert set(runs["learning_rate"]) == {"0.1", '{"initial": 0.1, "schedule": "cosine"}'}
    query = f"SELECT qv_size, policy, avg(accuracy) FROM '{table}' GROUP BY ALL ORDER BY ALL"
    found = duckdb.sql(query).fetchall()
    means = runs.groupby(["qv_size", "policy"])["accuracy"].mean()
    assert [entry[:2] for entry in found] == list(means.index)
    assert [entry[2] for entry in found] == pytest.approx(means.tolist())
    joined = (
        f"SELECT count(*) FROM '{curves}' JOIN '{table}' USING (key) WHERE batch_size > 0 AND NOT diverged"
    )
    assert duckdb.sql(joined).fetchall() == [(16 * 4,)]


def test_parquet_needs_pyarrow(tmp_path, mistake, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "Parquet needs pyarrow: pip install" in mistake("export", tmp_path, tmp_path / "runs.parquet")


def test_folders_are_merged(file, tmp_path, output, mistake):
    first, second = tmp_path / "first", tmp_path / "second"
    output("sweep", file, "--out", first, "--processes", 1)
    file.write_text(GRID.replace('"krum"', '"median"'))
    output("sweep", file, "--out", second, "--processes", 1)
    assert "12 runs" in output("merge", tmp_path / "both", first, second)
    text = output("report", tmp_path / "both")
    assert all(name in text for name in ("mean", "krum", "median"))
    assert "holds no runs" in mistake("merge", tmp_path / "both", tmp_path)
