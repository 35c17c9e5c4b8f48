"""The scripts of baselines/ run, with few short runs."""

import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest

from byzgym import aggregation, tasks
from byzgym.experiments.store import Store

FOLDER = Path(__file__).parents[1] / "baselines"


def script(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))  # the scripts import each other
    spec = importlib.util.spec_from_file_location(f"baselines_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_survival_plays_all_parts_and_goes_on_with_what_is_missing(tmp_path, monkeypatch, capsys):
    survival = script("survival", monkeypatch)
    monkeypatch.setattr(survival, "TRAINED", ("sign_flip",))
    monkeypatch.setattr(survival, "UNSEEN", ("min_max",))
    config = survival.Config(out=tmp_path, seeds=1, rounds=2, policies=("krum", "set", "oracle"))
    survival.main(config)
    table = capsys.readouterr().out
    assert all(name in table for name in config.policies)
    with monkeypatch.context() as patch:
        patch.setattr("byzgym.experiments.play.play_batch", None)
        survival.main(config)
    assert capsys.readouterr().out.splitlines()[-5:] == table.splitlines()[-5:]
    survival.main(survival.Config(out=tmp_path, seeds=2, rounds=2, policies=("median", "oracle")))
    assert "krum" in capsys.readouterr().out  # runs of others stay in the table
    with Store(tmp_path) as store:
        assert len(store.table().query("attack == 'none'")) == 3 + 4 - 1  # the oracle's first was there


def test_survival_without_the_oracle_is_refused(tmp_path, monkeypatch):
    survival = script("survival", monkeypatch)
    with pytest.raises(SystemExit, match="policies must have the oracle"):
        survival.main(survival.Config(out=tmp_path, policies=("krum",)))


def test_survival_plays_everybody_by_default(monkeypatch):
    survival = script("survival", monkeypatch)
    assert {*aggregation.names(), "set", "gaa", "uniform", "oracle"} <= {*survival.Config().policies}


def test_scores_are_parts_of_the_oracles_accuracy_with_the_worst_cell_first(monkeypatch):
    survival = script("survival", monkeypatch)
    rows = [
        {"policy": policy, "attack": attack, "num_byzantine": f, "roles": "static", "seed": seed}
        | {"accuracy": accuracy}
        for policy, accuracies in {"oracle": (0.8, 0.8, 0.4, 0.8), "a": (0.4, 0.8, 0.4, 0.8)}.items()
        for (attack, f, seed), accuracy in zip(
            [("none", 0, 0), ("none", 0, 1), ("min_max", 7, 0), ("min_max", 7, 1)], accuracies, strict=True
        )
    ]
    table = survival.scores(survival.pd.DataFrame(rows))
    assert list(table.index) == ["oracle", "a"]
    row = table.loc["a"]
    assert row["worst cell"] == pytest.approx(0.75)
    assert row["which"] == "none, f=0, static"
    assert row["worst run"] == 0.5
    assert row["mean"] == pytest.approx(0.875)
    assert row["f=7"] == row["unseen"] == 1


def test_transfer_prints_a_row_for_each_setting_and_policy(monkeypatch, capsys):
    transfer = script("transfer", monkeypatch)
    monkeypatch.setattr(transfer, "TRAINED", ("sign_flip",))
    made = transfer.settings
    monkeypatch.setattr(
        transfer,
        "settings",
        lambda config: {
            name: [transfer.replace(one, rounds=2, evaluate_every=2, seeds=1) for one in comparisons]
            for name, comparisons in made(config).items()
        },
    )
    transfer.main(
        transfer.Config(policies=("trust",), seeds=1, only=("attacks of the training", "no attack"))
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["attacks of the training", "no attack"]
    assert all("trust" in line for line in lines[1:])


def test_transfer_scores_cells_and_counts_lost_runs(monkeypatch, capsys):
    transfer = script("transfer", monkeypatch)
    runs = {"oracle": [0.8, 0.8, 1.0, 0.5], "set": [0.8, 0.6, 0.85, 0.4]}  # two seeds of two attacks
    cells = [(attack, 3, "static", seed) for attack in ("ipm", "alie") for seed in (0, 1)]
    names = ["attack", "num_byzantine", "roles", "seed"]
    index = pd.MultiIndex.from_tuples(cells, names=names)
    monkeypatch.setattr(transfer, "played", lambda comparisons, policy: pd.Series(runs[policy], index))
    transfer.main(transfer.Config(policies=("set",), only=("no attack",)))
    numbers = capsys.readouterr().out.splitlines()[1].split()[3:9]
    # cells 0.7 / 0.8 and 0.625 / 0.75; runs 1, 0.75, 0.85 and 0.8
    assert numbers == ["0.854", "0.833", "0.750", "2", "of", "4"]


@pytest.mark.parametrize("name", ["iris", "circles", "quantiles", "hastie"])
def test_small_tasks_of_transfer_have_all_classes_in_both_parts(monkeypatch, name):
    script("transfer", monkeypatch)
    task = tasks.make(name)
    for x, y in (task.train, task.test):
        assert y.unique().tolist() == list(range(task.num_classes))
        assert x.isfinite().all()
    assert tasks.make(name).train[0].equal(task.train[0])


@pytest.mark.parametrize("name", ["no attacks", "MNIST"])  # MNIST is not given
def test_transfer_refuses_settings_that_it_does_not_have(monkeypatch, name):
    transfer = script("transfer", monkeypatch)
    with pytest.raises(SystemExit, match=f"only must name some of .*'no attack'.*, got \\['{name}'\\]"):
        transfer.main(transfer.Config(only=("no attack", name)))


def test_transfer_gives_every_setting_its_first_seed(monkeypatch):
    transfer = script("transfer", monkeypatch)
    made = transfer.settings(transfer.Config(first_seed=100, mnist=Path("data")))
    assert {one.first_seed for comparisons in made.values() for one in comparisons} == {100}


def test_the_page_names_every_script():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    scripts = [path.name for path in FOLDER.iterdir() if path.suffix in (".py", ".sh")]
    assert len(scripts) >= 6
    assert [name for name in scripts if f"baselines/{name}" not in page] == []


def test_detection_prints_its_tables(monkeypatch, capsys):
    detection = script("detection", monkeypatch)
    detection.main(
        detection.Detection(
            policies=("krum",), attacks=("gaussian",), num_byzantine=(3,), seeds=(1,), quiet_seeds=1, rounds=5
        )
    )
    assert "krum" in capsys.readouterr().out
