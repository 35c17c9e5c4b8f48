"""baselines/reproductions/xie.py runs, and its checks can come out both ways."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from byzgym import aggregation
from byzgym.experiments import Comparison
from byzgym.experiments.results import Results
from tests.test_baselines import script


@pytest.fixture
def xie(monkeypatch):
    return script("reproductions/xie", monkeypatch)


def shortened(xie, monkeypatch):
    made = xie.parts
    small = {"task": "synthetic", "model": "softmax", "rounds": 2, "batch_size": 2}
    monkeypatch.setattr(
        xie, "parts", lambda config: {name: replace(one, **small) for name, one in made(config).items()}
    )


@pytest.mark.slow
def test_every_claim_gets_a_verdict_and_nothing_is_played_twice(xie, monkeypatch, tmp_path, capsys):
    shortened(xie, monkeypatch)
    config = xie.Config(mnist=Path("data"), cifar10=Path("data"), out=tmp_path, seeds=1)
    xie.main(config)
    printed = capsys.readouterr().out
    claims = pd.read_csv(tmp_path / "claims.csv")
    assert len(claims) == sum(len(policies) for _, _, policies, _, _ in xie.CLAIMS)
    assert set(claims["verdict"]) <= {"reproduced", "differs"}
    monkeypatch.setattr("byzgym.experiments.play.play_batch", None)
    xie.main(config)
    assert capsys.readouterr().out.splitlines()[-len(claims) :] == printed.splitlines()[-len(claims) :]


def test_without_data_it_says_what_to_give(xie, tmp_path):
    with pytest.raises(SystemExit, match="give mnist, cifar10 or both"):
        xie.main(xie.Config(out=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_parts_need_their_data_and_begin_at_the_first_seed(xie):
    made = xie.parts(xie.Config(mnist=Path("data"), first_seed=100))
    assert {one.first_seed for one in made.values()} == {100}
    assert not any(name.startswith("figure-7") for name in made)
    assert set(xie.parts(xie.Config(cifar10=Path("data")))) == {"figure-7", "figure-7-calm"}
    assert set(xie.PARTS.values()) <= set(xie.parts(xie.Config(mnist=Path("a"), cifar10=Path("b"))))


def test_a_run_that_diverged_counts_as_chance_and_the_best_q_is_shown(xie):
    keys = {"attack": "gambler", "policy": "krum"}
    runs, curves = [], []
    # Of q = 2 a run diverged, of q = 4 both did, whatever they score.
    for q, seed, accuracy, diverged in (
        (2, 0, 0.0, True),
        (2, 1, 0.5, False),
        (4, 0, 0.9, True),
        (4, 1, 0.9, True),
    ):
        run = keys | {"num_byzantine": q, "seed": seed}
        runs.append(run | {"accuracy": accuracy, "diverged": diverged, "num_classes": 10})
        curves += [run | {"round": 0, "accuracy": 0.05}, run | {"round": 50, "accuracy": accuracy}]
    results = Results(Comparison(), runs=pd.DataFrame(runs), curves=pd.DataFrame(curves))
    found = xie.cells(results).loc[("gambler", "krum")]
    assert found["final"] == found["curve"] == pytest.approx(0.3)
    assert found["diverged"] == 1


def test_checks_can_come_out_both_ways(xie):
    cells = pd.DataFrame(
        {"final": [0.95, 0.93, 0.9, 0.2], "curve": [0.9, 0.85, 0.8, 0.2], "gain": [1.0, 0.97, 0.94, 0.1]},
        index=["a", "b", "c", "d"],
    )
    seen = xie.Seen(cells, pd.Series({"final": 0.955, "curve": 0.88}))
    expected = {
        xie.same: "a",
        xie.near: "abc",
        xie.fails: "d",
        xie.slower: "bc",
        xie.slowest: "bc",
        xie.best: "a",
    }
    for check, policies in expected.items():
        assert [name for name in "abcd" if check(seen, name)] == list(policies), check.__name__


def test_the_medoid_in_float32_falls_to_a_first_row_whose_distances_overflow(xie):
    rows = torch.tensor([[0, -1e25], [0, 0], [1, 0], [1.2, 0]])
    assert xie.MedoidInFloat32()(rows[1:])[0] == aggregation.make("medoid")(rows[1:])[0] == 1
    assert xie.MedoidInFloat32()(rows)[1] == -1e25
    assert aggregation.make("medoid")(rows)[0] == 1
