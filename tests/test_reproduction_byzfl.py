"""baselines/reproductions/byzfl.py runs, and its checks can come out both ways."""

import pandas as pd
import pytest
import torch

from tests.test_baselines import script


@pytest.fixture
def byzfl(monkeypatch):
    return script("reproductions/byzfl", monkeypatch)


def verdicts(printed):
    return [line for line in printed.splitlines() if line.endswith(("| reproduced |", "| **differs** |"))]


def test_byzfl_deals_the_data_to_the_honest_workers_only(byzfl):
    labels = torch.arange(10).repeat(21)
    generator = torch.Generator().manual_seed(0)
    indices, lengths = byzfl.GammaSimilarity(0.0)(labels, 14, generator)
    shares = [indices[worker, : lengths[worker]] for worker in range(14)]
    assert sorted(torch.cat(shares).tolist()) == list(range(210))
    assert lengths.tolist() == [21] * 6 + [20] * 4 + [1] * 4
    assert all(len(labels[share].unique()) <= 2 for share in shares[:10])  # sorted by label
    indices, lengths = byzfl.GammaSimilarity(1.0)(labels, 14, generator)
    assert all(len(labels[indices[worker]].unique()) > 5 for worker in range(10))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:batch_size")
def test_byzfl_prints_its_map_and_judges_each_claim(byzfl, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(byzfl, "NUMBERS", (1, 2))
    monkeypatch.setattr(byzfl, "GAMMAS", (1.0, 0.0))
    byzfl.main(byzfl.Config(task="synthetic", out=tmp_path, rounds=4, first_seed=5))
    printed = capsys.readouterr().out
    assert len(verdicts(printed)) == 5
    assert "| policy | 1, 1.0 | 1, 0.0 | 2, 1.0 | 2, 0.0 | least |" in printed
    table = pd.read_csv(tmp_path / "worst.csv", header=[0, 1], index_col=0)
    assert table.shape == (11, 4)


def test_byzfl_finds_that_nnm_helps_where_it_does(byzfl):
    columns = pd.MultiIndex.from_product([byzfl.NUMBERS, byzfl.GAMMAS], names=["f", "gamma"])
    policies = next(byzfl.settings(byzfl.Config(task="digits")))[2].policies
    table = pd.DataFrame(50.0, index=policies, columns=columns)
    assert [agree for *_, agree in byzfl.claims(table)] == [False, False, True, True, False]
    table.loc[[policy for policy in policies if "nnm" in policy]] = 60.0
    assert all(agree for *_, agree in byzfl.claims(table))
    table.loc[f"{byzfl.PIPELINE}+trimmed_mean", (2, 0.0)] = 70.0  # more heterogeneous, more accurate
    assert [agree for *_, agree in byzfl.claims(table)] == [True, True, False, True, True]
