import pandas as pd
import pytest
from safetensors.torch import load_file

from byzgym.cli import main
from byzgym.experiments.store import Store

RULE = """
from byzgym import aggregation

aggregation.register("test_of_replay", lambda: lambda rows: rows.sort(-2).values[..., 2:-2, :].mean(-2))
"""
OPTIONS = ["--task", "synthetic", "--attacks", "sign_flip", "--num-byzantine", "2", "--rounds", "8"]


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """A module of the user, and the folder with its runs; it is the current directory."""
    folder = tmp_path_factory.mktemp("replay")
    (folder / "rule_of_replay.py").write_text(RULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["--policies", "test_of_replay", "mean", "--seeds", "2", "--evaluate-every", "4"]
        command = [
            "--import",
            "rule_of_replay",
            "compare",
            *OPTIONS,
            *words,
            "--processes",
            "1",
            "--out",
            "runs",
        ]
        assert main(command) == 0
        yield folder


@pytest.fixture
def key(module):
    """The key of the run of the user's rule with seed 1."""
    with Store("runs") as store:
        table = store.table()
    chosen = (table["policy"] == "test_of_replay") & (table["seed"] == 1)
    return table.loc[chosen, "key"].item()


def test_a_round_and_the_last_one(module, key, output):
    text = output("--import", "rule_of_replay", "replay", "runs", key[:10], "--to", 5)
    title = f"test_of_replay against sign_flip, f = 2 of 10 workers, seed 1: run {key[:12]}, played beside 1"
    assert title in text
    assert "round 5 of 8: curve and credits equal the recorded ones" in text
    assert text.count("yes") == 2
    path = module / "runs" / f"model-{key[:12]}-5.safetensors"
    assert str(path.relative_to(module)) in text
    assert load_file(path)
    with Store("runs") as store:
        row = store.row(key)
    text = output("replay", "runs", key[:10], "--out", "models")
    assert f"accuracy {row['accuracy']:.4f}, QV loss {row['qv_loss']:.4g}" in text
    assert (module / "models" / f"model-{key[:12]}-8.safetensors").exists()


def test_what_would_have_been(module, key, output):
    text = output("replay", "runs", key, "--to", 4, "--policy", "median", "--without", 3, 1)
    assert "round 8, median without 3 1 from 4 on" in text
    assert "as recorded: accuracy" in text
    assert (module / "runs" / f"model-{key[:12]}-8-median-without-3-1-from-4-on.safetensors").exists()


def test_a_changed_file_is_told(module, key, capsys):
    path = module / "rule_of_replay.py"
    path.write_text(RULE + "# other words, same numbers")
    try:
        assert main(["replay", "runs", key, "--to", "4"]) == 0
    finally:
        path.write_text(RULE)
    assert "byzgym: rule test_of_replay has changed since" in capsys.readouterr().err


def test_mistakes(module, key, mistake, tmp_path):
    assert "run must be the key of a run in runs" in mistake("replay", "runs", "xyz")
    assert "holds no runs" in mistake("replay", tmp_path, key)
    assert "unknown agent 'medan'" in mistake("replay", "runs", key, "--to", 2, "--policy", "medan")
    assert "to must be before the last round, 8" in mistake("replay", "runs", key, "--policy", "median")


def test_keys_are_in_an_export(module, key, output):
    output("export", "runs", "runs.csv")
    assert key in set(pd.read_csv("runs.csv")["key"])
