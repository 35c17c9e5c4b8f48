"""baselines/reproductions/faba.py runs, and its claims can come out both ways."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from byzgym.experiments import Comparison
from byzgym.experiments.results import Results
from tests.test_baselines import script


@pytest.fixture
def faba(monkeypatch):
    return script("reproductions/faba", monkeypatch)


def played(**accuracies):
    """Results whose curves have these accuracies, a list for each policy."""
    rows = [
        {"policy": policy, "attack": "none", "num_byzantine": 2, "seed": seed, "round": 10 * epoch}
        | {"accuracy": accuracy + shift, "attack_success_rate": float("nan"), "qv_loss": 0.0}
        for policy, values in accuracies.items()
        for epoch, accuracy in enumerate([0.1, *values])
        for seed, shift in enumerate((-0.001, 0.001))
    ]
    return Results(Comparison(rounds=100, evaluate_every=10), curves=pd.DataFrame(rows))


def test_both_parts_are_played_once(faba, monkeypatch, tmp_path, capsys):
    made = faba.parts
    small = {"task": "synthetic", "model": "softmax", "rounds": 4, "evaluate_every": 2, "batch_size": 4}
    monkeypatch.setattr(
        faba, "parts", lambda config: {name: replace(one, **small) for name, one in made(config).items()}
    )
    config = faba.Config(mnist=Path("data"), cifar10=Path("data"), out=tmp_path, seeds=1)
    faba.main(config)
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("reproduced", "differs")) for line in printed) == 7
    monkeypatch.setattr("byzgym.experiments.play.play_batch", None)
    faba.main(config)
    assert capsys.readouterr().out.splitlines()[-10:] == printed[-10:]


def test_without_data_it_says_what_to_give(faba, tmp_path):
    with pytest.raises(SystemExit, match="give mnist, cifar10 or both"):
        faba.main(faba.Config(out=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_parts_need_their_data_and_begin_at_the_first_seed(faba):
    made = faba.parts(faba.Config(mnist=Path("a"), cifar10=Path("b"), first_seed=100))
    assert {one.first_seed for one in made.values()} == {100}
    assert list(faba.parts(faba.Config(mnist=Path("a")))) == ["table-1"]
    assert {one.weight_decay for name, one in made.items() if name != "table-1"} == {5e-4}
    assert made["table-1"].rounds == 10 * 468


def test_the_papers_own_numbers_confirm_its_claims(faba):
    ours = played(**faba.PAPER, mean=[0.2] * 10)
    table, claims = faba.table_1(ours)
    assert all(claims.values())
    assert table["faba"].tolist() == pytest.approx(faba.PAPER["faba"])


def test_a_run_that_diverged_counts_as_chance_after_every_epoch(faba):
    results = played(faba=[0.5, 0.6], mean=[0.5, 0.0])
    keys = ["policy", "attack", "num_byzantine", "seed"]
    runs = results.curves[keys].drop_duplicates().assign(accuracy=0.6, num_classes=10)
    runs["diverged"] = (runs["policy"] == "mean") & (runs["seed"] == 0)
    table = faba.by_epoch(replace(results, runs=runs))
    assert table["faba"].tolist() == pytest.approx([0.5, 0.6])
    assert table["mean"].tolist() == pytest.approx([(0.1 + 0.501) / 2, (0.1 + 0.001) / 2])


def test_claims_of_the_table_can_fail(faba):
    _, claims = faba.table_1(played(faba=[0.98] * 3, krum=[0.9] * 3, mean=[0.98] * 3))
    assert not any(claims.values())


def test_claims_of_the_figure_can_come_out_both_ways(faba):
    good = played(faba=[0.5, 0.6], krum=[0.3, 0.4], mean=[0.1, 0.1])
    bad = played(faba=[0.5, 0.3], krum=[0.6, 0.4], mean=[0.5, 0.6])
    calm = played(mean=[0.5, 0.61])
    assert all(faba.figure_4(good, calm)[1].values())
    assert not any(faba.figure_4(bad, calm)[1].values())
