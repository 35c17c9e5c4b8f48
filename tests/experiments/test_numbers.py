import math

import numpy as np
import pandas as pd
import pytest
import torch

from byzgym import specs
from byzgym.experiments import statistics
from byzgym.experiments.measures import CreditLog, byzantine_credit, detection_auc


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("ipm", {"name": "ipm"}),
        ("ipm:epsilon=1.0", {"name": "ipm", "epsilon": 1.0}),
        ("gaussian: mean=-1, std=1e3", {"name": "gaussian", "mean": -1, "std": 1e3}),
        ("fixed:credits=[1,0, 2]", {"name": "fixed", "credits": [1, 0, 2]}),
        ("other:task=digits", {"name": "other", "task": "digits"}),
        ("mnist:root='/a b',download=True", {"name": "mnist", "root": "/a b", "download": True}),
    ],
)
def test_names_with_parameters(text, spec):
    assert specs.parse(text) == spec
    assert specs.parse(specs.canonical(text)) == spec


@pytest.mark.parametrize(
    "text",
    ["", ":", "ipm:", "ipm:1", "ipm:epsilon", "ipm:epsilon=open('x')", "ipm:name=1", "ipm:**{}", "a:b=1)+(2"],
)
def test_names_of_another_form(text):
    with pytest.raises(ValueError, match=r"expected 'name"):
        specs.parse(text)


def test_one_spelling():
    assert specs.canonical("gaussian: mean=-1, std=1e3") == "gaussian:mean=-1,std=1000.0"


@pytest.mark.parametrize(
    "text",
    [
        "a:b='None'",
        "a:b='True'",
        "a:b='if'",
        "a:b='ﬁ'",
        "a:b=None",
        "a:b=True",
        "a:b=word",
        "a:b=1e999",
        "a:b=-1e999",
    ],
)
def test_a_spelling_is_read_as_what_it_spells(text):
    assert specs.parse(specs.canonical(text)) == specs.parse(text)


@pytest.mark.parametrize("value", [1, None, ["ipm"]])
def test_names_are_strings(value):
    with pytest.raises(ValueError, match=r"expected 'name'.*got"):
        specs.parse(value)


def test_byzantine_credit_by_hand():
    credits = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
    byzantine = np.array([[True, False, False], [False, True, True]])
    assert byzantine_credit(credits, byzantine) == pytest.approx((0.5 + 0.9) / 2)


def test_detection_auc_by_hand():
    # Pairs of a Byzantine (0.1, 0.4) and an honest credit (0.2, 0.3): lower in 2 of 4.
    assert detection_auc(np.array([[0.1, 0.2], [0.4, 0.3]]), np.array([[True, False], [True, False]])) == 0.5
    assert detection_auc(np.array([[0.1, 0.2], [0.15, 0.3]]), np.array([[True, False], [True, False]])) == 1.0
    assert detection_auc(np.full((3, 2), 0.5), np.array([[True, False]] * 3)) == 0.5
    assert math.isnan(detection_auc(np.ones((2, 2)), np.ones((2, 2), dtype=bool)))


def test_the_log_looks_at_the_end_of_the_run():
    log, mask = CreditLog(20), torch.tensor([[True, False]])
    for round in range(20):
        byzantine = {18: 0.2, 19: 0.4}.get(round, 1.0 if round < 10 else 0.3)
        log.add(round, torch.tensor([[byzantine, 1 - byzantine]]), mask)
    assert log.byzantine_credit(0) == pytest.approx(0.3)
    assert log.detection_auc(0) == 1.0


@pytest.mark.parametrize(("rounds", "counted"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (30, 3)])
def test_the_last_tenth_of_the_rounds(rounds, counted):
    log, mask = CreditLog(rounds), torch.tensor([[True, False]])
    for round in range(rounds):
        byzantine = {rounds - counted: 0.75}.get(round, 0.25 if round > rounds - counted else 1.0)
        log.add(round, torch.tensor([[byzantine, 1 - byzantine]]), mask)
    assert log.byzantine_credit(0) == pytest.approx((0.75 + 0.25 * (counted - 1)) / counted)


def test_detection_pools_the_last_half_of_the_rounds():
    log, mask = CreditLog(20), torch.tensor([[True, False]])
    for round in range(20):
        byzantine = 0.9 if round < 10 else 0.6 if round == 10 else 0.3
        log.add(round, torch.tensor([[byzantine, 1 - byzantine]]), mask)
    # 10 x 10 pairs of a Byzantine (0.6, nine of 0.3) and an honest credit (0.4, nine of 0.7): only 0.6 and
    # 0.4 are the wrong way round. One round more or less would give 99 / 121 or 1.
    assert log.detection_auc(0) == pytest.approx(0.99)


def test_the_log_keeps_masks_of_its_own():
    log, mask = CreditLog(1), torch.tensor([[True, False]])
    log.add(0, torch.tensor([[0.25, 0.75]]), mask)
    mask.logical_not_()  # as role functions do to the simulation's
    assert log.byzantine_credit(0) == 0.25


def test_rounds_without_credit_do_not_count():
    log, mask = CreditLog(10), torch.tensor([[True, False], [True, False]])
    for round in range(10):
        log.add(round, torch.tensor([[0.25, 0.75], [0.0, 0.0]]), mask)
    assert log.byzantine_credit(0) == 0.25
    assert math.isnan(log.byzantine_credit(1))
    assert math.isnan(log.detection_auc(1))
    assert math.isnan(CreditLog(10).byzantine_credit(0))


def results():
    rows = []
    for policy, values in {"a": [0.5, 0.7, 0.9], "b": [0.4, 0.5, 0.6]}.items():
        for seed, value in enumerate(values):
            rows.append(
                {
                    "policy": policy,
                    "attack": "x",
                    "num_byzantine": 3,
                    "seed": seed,
                    "accuracy": value,
                    "byzantine_credit": math.nan,
                    "detection_auc": math.nan,
                    "diverged": seed == 0,
                }
            )
    return pd.DataFrame(rows)


def test_summary_by_hand():
    summary = statistics.summarise(results(), "a", "x", 3)
    assert summary.mean == pytest.approx(0.7)
    assert summary.std == pytest.approx(0.2)
    assert (summary.count, summary.diverged) == (3, 1)
    assert statistics.summarise(results(), "a", "x", 4) is None


def test_every_run_that_has_diverged_is_counted():
    runs = results()
    runs["diverged"] = runs["seed"] < 2
    assert statistics.summarise(runs, "a", "x", 3).diverged == 2


def test_paired_difference_by_hand():
    # Differences 0.1, 0.2, 0.3: standard error 0.1 / sqrt(3), t quantile with 2 degrees of freedom 4.30265.
    found = statistics.paired_difference(results(), "a", "b", ["x"], 3)
    assert found.mean == pytest.approx(0.2)
    assert found.high - found.mean == pytest.approx(4.30265 * 0.1 / math.sqrt(3), rel=1e-4)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    single = statistics.paired_difference(results().query("seed == 0"), "a", "b", ["x"], 3)
    assert math.isnan(single.low)


def test_seeds_not_played_under_all_attacks_do_not_count():
    # Of attack y there is seed 0 alone, with a difference of 0.5; under x that seed has 0.1.
    other = results().query("seed == 0").assign(attack="y", accuracy=[0.9, 0.4])
    found = statistics.paired_difference(pd.concat([results(), other]), "a", "b", ["x", "y"], 3)
    assert (found.count, found.mean) == (1, pytest.approx(0.3))


def test_leader():
    assert statistics.leader(results(), ["b", "a"], ["x"], 3) == "a"
    assert statistics.leader(results(), ["a"], ["x", "y"], 3) is None
