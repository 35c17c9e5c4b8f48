import math

import pandas as pd
import pytest
import torch

from byzgym.experiments import statistics
from byzgym.experiments.statistics import CreditLog

MASK = torch.tensor([[True, False]])


def logged(rounds, byzantine):
    """The log of two workers, of whom the Byzantine one gets ``byzantine(round)``."""
    log = CreditLog(rounds)
    for round in range(rounds):
        log.add(round, torch.tensor([[byzantine(round), 1 - byzantine(round)]]), MASK)
    return log


@pytest.mark.parametrize(("rounds", "counted"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (30, 3)])
def test_credit_counts_the_last_tenth(rounds, counted):
    first = rounds - counted
    log = logged(rounds, lambda round: 0.75 if round == first else 0.25 if round > first else 1.0)
    assert log.byzantine_credit(0) == pytest.approx((0.75 + 0.25 * (counted - 1)) / counted)


def test_detection_pools_the_last_half():
    # 10 x 10 pairs of a Byzantine (0.6, nine of 0.3) and an honest credit (0.4, nine of 0.7): only 0.6 and
    # 0.4 are the wrong way round. One round more or less would give 99 / 121 or 1.
    log = logged(20, lambda round: 0.9 if round < 10 else 0.6 if round == 10 else 0.3)
    assert log.detection_auc(0) == pytest.approx(0.99)


def test_two_byzantine_workers_of_three():
    log = CreditLog(1)
    log.add(0, torch.tensor([[0.25, 0.5, 0.25]]), torch.tensor([[True, False, True]]))
    assert log.byzantine_credit(0) == 0.5
    assert log.detection_auc(0) == 1.0


def test_no_detection_where_all_are_byzantine():
    log = CreditLog(1)
    log.add(0, torch.tensor([[0.4, 0.6]]), torch.tensor([[True, True]]))
    assert log.byzantine_credit(0) == pytest.approx(1)
    assert math.isnan(log.detection_auc(0))


def test_rounds_without_credit_do_not_count():
    log = CreditLog(10)
    for round in range(10):
        log.add(round, torch.tensor([[0.25, 0.75], [0.0, 0.0], [math.nan, math.nan]]), MASK.expand(3, 2))
    assert log.byzantine_credit(0) == 0.25
    for without in (1, 2):
        assert math.isnan(log.byzantine_credit(without))
        assert math.isnan(log.detection_auc(without))
    assert math.isnan(CreditLog(10).byzantine_credit(0))


@pytest.fixture
def runs():
    columns = ["policy", "attack", "num_byzantine", "seed", "accuracy"]
    rows = [("a", "x", 3, seed, value) for seed, value in enumerate([0.5, 0.7, 0.9])]
    rows += [("b", "x", 3, seed, value) for seed, value in enumerate([0.4, 0.5, 0.6])]
    others = {"diverged": False, "num_classes": 4, "byzantine_credit": math.nan, "detection_auc": math.nan}
    return pd.DataFrame(rows, columns=columns).assign(**others)


def test_summary_by_hand(runs):
    summary = statistics.summarise(runs, 3)["a", "x"]
    assert summary["mean"] == pytest.approx(0.7)
    assert summary["std"] == pytest.approx(0.2)
    assert summary["diverged"] == 0
    assert statistics.summarise(runs, 4) == {}


def test_a_diverged_run_counts_as_chance(runs):
    runs["diverged"] = (runs["policy"] == "a") & (runs["seed"] < 2)  # 0.5 and 0.7 become 1 / 4
    before = runs.copy()
    summary = statistics.summarise(runs, 3)["a", "x"]
    assert summary["mean"] == pytest.approx((0.25 + 0.25 + 0.9) / 3)
    assert summary["diverged"] == 2
    mean, _, _ = statistics.paired_difference(runs, "a", "b", ["x"], 3)
    assert mean == pytest.approx((0.25 + 0.25 + 0.9) / 3 - 0.5)
    pd.testing.assert_frame_equal(runs, before)


def test_chance_needs_classes(runs):
    with pytest.raises(ValueError, match="num_classes must be at least 1 in every run, got 0"):
        statistics.counted(runs.assign(num_classes=0))


def test_paired_difference_by_hand(runs):
    # Differences 0.1, 0.2, 0.3: standard error 0.1 / sqrt(3), t quantile with 2 degrees of freedom 4.30265.
    half = 4.30265 * 0.1 / math.sqrt(3)
    found = statistics.paired_difference(runs, "a", "b", ["x"], 3)
    assert found == pytest.approx((0.2, 0.2 - half, 0.2 + half), rel=1e-4)
    single = statistics.paired_difference(runs.query("seed == 0"), "a", "b", ["x"], 3)
    assert single == pytest.approx((0.1, math.nan, math.nan), nan_ok=True)


def test_differences_are_averaged_over_attacks(runs):
    # Under y the differences are 0.5, 0.6, 0.7, so the means of both attacks are 0.3, 0.4, 0.5.
    other = runs.assign(attack="y", accuracy=runs["accuracy"] + 0.4 * (runs["policy"] == "a"))
    half = 4.30265 * 0.1 / math.sqrt(3)
    found = statistics.paired_difference(pd.concat([runs, other]), "a", "b", ["x", "y"], 3)
    assert found == pytest.approx((0.4, 0.4 - half, 0.4 + half), rel=1e-4)


def test_no_credit_on_byzantine_workers_where_there_are_none():
    log = CreditLog(1)
    log.add(0, torch.tensor([[0.4, 0.6]]), torch.tensor([[False, False]]))
    assert math.isnan(log.byzantine_credit(0))
    assert math.isnan(log.detection_auc(0))
