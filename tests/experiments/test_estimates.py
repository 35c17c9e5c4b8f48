import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byzgym.experiments.estimates import (
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    same_seeds,
    worst_case,
)


def table(scores, **changes):
    """The runs of scores, by policy: a list of cells, each a list of accuracies by seed."""
    rows = [
        (policy, f"attack {cell}", 3, seed, accuracy)
        for policy, cells in scores.items()
        for cell, accuracies in enumerate(cells)
        for seed, accuracy in enumerate(accuracies)
    ]
    columns = ["policy", "attack", "num_byzantine", "seed", "accuracy"]
    return pd.DataFrame(rows, columns=columns).assign(**{"diverged": False, "num_classes": 10, **changes})


# Slow references, in plain Python, of cells (lists of accuracies).


def slow_worst(cells):
    return min(sum(cell) / len(cell) for cell in cells)


def slow_middle(cells):
    ordered = sorted(accuracy for cell in cells for accuracy in cell)
    cut = len(ordered) // 4
    kept = ordered[cut : len(ordered) - cut]
    return sum(kept) / len(kept)


def slow_improvement(cells, others):
    shares = []
    for cell, other in zip(cells, others, strict=True):
        pairs = [(x, y) for x in cell for y in other]
        shares.append(sum(1 if x > y else 0.5 if x == y else 0 for x, y in pairs) / len(pairs))
    return sum(shares) / len(shares)


def slow_share(cells, threshold):
    runs = [accuracy for cell in cells for accuracy in cell]
    return sum(accuracy > threshold for accuracy in runs) / len(runs)


def every_resample(cells, joint):
    """All equally likely choices of seeds, each as the lists of the seeds drawn in each cell."""
    choices = list(itertools.product(range(len(cells[0])), repeat=len(cells[0])))
    if joint:
        return [[choice] * len(cells) for choice in choices]
    return list(itertools.product(choices, repeat=len(cells)))


def drawn(cells, seeds):
    return [[cell[seed] for seed in own] for cell, own in zip(cells, seeds, strict=True)]


SCORES = {
    "a": [[0.91, 0.83, 0.72], [0.55, 0.74, 0.61]],
    "b": [[0.80, 0.85, 0.70], [0.59, 0.50, 0.61]],
}


def of_a(frame):
    """The row of policy a; a profile has one threshold."""
    return frame[frame["policy"] == "a"].iloc[0] if "policy" in frame else frame.loc["a"]


STATISTICS = {
    "worst": (worst_case, lambda a, b: slow_worst(a)),
    "middle": (interquartile_mean, lambda a, b: slow_middle(a)),
    "improvement": (lambda runs, **kw: probability_of_improvement(runs, "b", **kw), slow_improvement),
    "share": (lambda runs, **kw: performance_profile(runs, [0.73], **kw), lambda a, b: slow_share(a, 0.73)),
}


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("name", STATISTICS)
def test_intervals_are_quantiles_of_all_resamples(name, joint):
    function, slow = STATISTICS[name]
    a, b = SCORES["a"], SCORES["b"]
    found = of_a(function(table(SCORES), joint=joint, resamples=20_000))
    value = slow(a, b)
    assert found["value"] == pytest.approx(value)
    exact = [slow(drawn(a, seeds), drawn(b, seeds)) for seeds in every_resample(a, joint)]
    low, high = found["low"], found["high"]
    if name == "worst":  # bounds are mirrored at the value, and kept between 0 and 1
        low, high = 2 * value - high, 2 * value - low
    for bound, quantile in ((low, 0.025), (high, 0.975)):
        near = np.quantile(exact, [quantile - 0.006, quantile + 0.006], method="inverted_cdf")
        assert near[0] - 1e-9 <= bound <= near[1] + 1e-9


def test_values_by_hand():
    runs = table({"x": [[0.1, 0.5], [0.9, 0.7]], "y": [[0.5, 0.3], [0.7, 0.7]]})
    worst = worst_case(runs)
    assert worst["value"].to_dict() == pytest.approx({"x": 0.3, "y": 0.4})
    assert worst["attack"].to_dict() == {"x": "attack 0", "y": "attack 0"}
    assert worst["runs"].to_dict() == {"x": 4, "y": 4}
    # Of 0.1, 0.5, 0.7, 0.9 the middle half is 0.5 and 0.7.
    assert interquartile_mean(runs)["value"].to_dict() == pytest.approx({"x": 0.6, "y": 0.6})
    # First cell: 0.1 loses twice, 0.5 ties and wins once: 3/8. Second: 0.9 wins twice, 0.7 ties twice: 3/4.
    improvement = probability_of_improvement(runs, "y")["value"]
    assert improvement.to_dict() == pytest.approx({"x": (3 / 8 + 3 / 4) / 2, "y": 0.5})
    profile = performance_profile(runs, [0.5, 0.0])
    assert profile["value"].tolist() == [0.5, 1.0, 0.5, 1.0]
    assert profile["threshold"].tolist() == [0.5, 0.0, 0.5, 0.0]


def test_figures_of_rliable():
    # What rliable 1.2.0 gives on these numbers: aggregate_iqm, its interval by get_interval_estimates with
    # 50,000 resamples, probability_of_improvement, and score_distributions at 0.6.
    x = [[0.91, 0.83, 0.72, 0.64, 0.88], [0.55, 0.74, 0.61, 0.43, 0.66], [0.10, 0.62, 0.35, 0.10, 0.71]]
    y = [[0.80, 0.83, 0.70, 0.75, 0.69], [0.59, 0.74, 0.40, 0.43, 0.21], [0.10, 0.10, 0.33, 0.10, 0.64]]
    runs = table({"x": x, "y": y})
    middle = interquartile_mean(runs, resamples=50_000).loc["x"]
    assert middle["value"] == pytest.approx(0.6311111111)
    assert [middle["low"], middle["high"]] == pytest.approx([0.52888889, 0.70333333], abs=0.002)
    assert probability_of_improvement(runs, "y").loc["x", "value"] == pytest.approx(0.6733333333)
    assert performance_profile(runs, [0.6])["value"].tolist() == pytest.approx([0.6666666667, 0.4666666667])


def test_a_diverged_run_counts_as_chance():
    runs = table({"x": [[0.9, 0.99]]}, diverged=[False, True], num_classes=5)
    assert worst_case(runs).loc["x", "value"] == pytest.approx((0.9 + 0.2) / 2)
    assert performance_profile(runs, [0.2, 0.1])["value"].tolist() == [0.5, 1.0]
    runs.loc[1, "accuracy"] = math.nan  # what an exploded model may give
    assert interquartile_mean(runs).loc["x", "value"] == pytest.approx((0.9 + 0.2) / 2)


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize(("seeds", "bounded"), [(1, False), (2, True), (3, True)])
def test_few_seeds(name, seeds, bounded):
    few = {policy: [cell[:seeds] for cell in cells] for policy, cells in SCORES.items()}
    found = of_a(STATISTICS[name][0](table(few), resamples=200))
    assert 0 <= found["value"] <= 1
    assert math.isfinite(found["low"]) is math.isfinite(found["high"]) is bounded


@pytest.mark.parametrize("name", STATISTICS)
def test_equal_runs_have_an_interval_without_width(name):
    found = of_a(STATISTICS[name][0](table({"a": [[0.5] * 3] * 2, "b": [[0.5] * 3] * 2}), resamples=200))
    assert found["low"] == found["value"] == found["high"]


def test_a_single_cell_and_two_numbers_of_byzantine_workers():
    one = worst_case(table({"a": [[0.5, 0.7]]}), resamples=100)
    assert one.loc["a", "value"] == pytest.approx(0.6)
    both = pd.concat([table({"a": [[0.5, 0.7]]}), table({"a": [[0.1, 0.3]]}, num_byzantine=7)])
    assert worst_case(both, resamples=100).loc["a", ["attack", "num_byzantine"]].tolist() == ["attack 0", 7]


@pytest.mark.parametrize("name", STATISTICS)
def test_a_policy_that_lacks_a_cell_has_no_value(name):
    runs = table({"a": SCORES["a"][:1], "b": SCORES["b"]})
    found = STATISTICS[name][0](runs, resamples=100)
    assert of_a(found)[["value", "low", "high"]].isna().all()
    assert found["value"].notna().any()


def test_only_seeds_that_both_have_are_compared():
    runs = table({"a": [[0.5, 0.5, 0.5]], "b": [[0.4, 0.6, 0.9]]})
    found = probability_of_improvement(runs[(runs["policy"] == "a") | (runs["seed"] < 2)], "b").loc["a"]
    assert found["value"] == 0.5
    assert found["runs"] == 2


def test_one_seed_of_the_bootstrap_gives_one_interval():
    runs = table(SCORES)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (interquartile_mean(runs, resamples=50, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not first[["low", "high"]].equals(other[["low", "high"]])
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_without_resamples_there_is_no_interval():
    assert interquartile_mean(table(SCORES), resamples=0)[["low", "high"]].isna().all(axis=None)


def other_seeds(runs):
    """As many seeds in each cell, but others in the second one."""
    return runs.assign(seed=runs["seed"] + 10 * (runs["attack"] == "attack 1"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda runs: worst_case(runs.drop(columns="seed")),
            "runs must have the columns .*; seed are missing",
        ),
        (lambda runs: worst_case(runs[:0]), "runs must not be empty"),
        (
            lambda runs: worst_case(pd.concat([runs, runs[:1]])),
            "got two of policy a, attack attack 0, .*seed 0",
        ),
        (lambda runs: worst_case(runs.assign(accuracy=math.nan)), "runs must have a finite accuracy"),
        (lambda runs: worst_case(runs, resamples=-1), "resamples must be an integer of at least 0, got -1"),
        (lambda runs: worst_case(runs, seed=-1), "seed must be an integer of at least 0, got -1"),
        (lambda runs: worst_case(runs, joint=1), "joint must be True or False, got 1"),
        (lambda runs: worst_case(runs[:-1], joint=True), r"joint must be False .*\[\[0, 1\], \[0, 1, 2\]\]"),
        (
            lambda runs: worst_case(other_seeds(runs), joint=True),
            "joint must be False where a policy's cells have different seeds",
        ),
        (lambda runs: probability_of_improvement(runs, "c"), "other must be one of 'a', 'b', got 'c'"),
        (lambda runs: performance_profile(runs, []), "thresholds must not be empty"),
        (lambda runs: performance_profile(runs, [math.nan]), "thresholds must be a finite number, got nan"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call(table(SCORES))


@st.composite
def several_runs(draw):
    """Runs of two policies in up to three cells; accuracies with two digits, so that there are ties."""
    cells, seeds = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    accuracies = st.lists(
        st.integers(0, 100).map(lambda percent: percent / 100), min_size=seeds, max_size=seeds
    )
    one = st.lists(accuracies, min_size=cells, max_size=cells)
    return {"a": draw(one), "b": draw(one)}


@settings(max_examples=30, deadline=None)
@given(several_runs())
def test_values_are_those_of_the_references(scores):
    runs, a, b = table(scores), scores["a"], scores["b"]
    for function, slow in STATISTICS.values():
        assert of_a(function(runs, resamples=0))["value"] == pytest.approx(slow(a, b))


@settings(max_examples=30, deadline=None)
@given(several_runs(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(scores, random):
    runs = table(scores)
    order = list(range(len(runs)))
    random.shuffle(order)
    for function, _ in STATISTICS.values():
        expected, found = (function(rows, resamples=20) for rows in (runs, runs.iloc[order]))
        pd.testing.assert_frame_equal(found, expected)


@settings(max_examples=30, deadline=None)
@given(several_runs(), st.sampled_from([0.25, 0.5]))
def test_scaling(scores, scale):
    runs = table(scores)
    smaller = runs.assign(accuracy=scale * runs["accuracy"])
    for function in (worst_case, interquartile_mean):
        expected = scale * function(runs, resamples=0)["value"]
        assert function(smaller, resamples=0)["value"].to_dict() == pytest.approx(expected.to_dict())
    before, after = (probability_of_improvement(rows, "b", resamples=0) for rows in (runs, smaller))
    pd.testing.assert_frame_equal(before, after)


@settings(max_examples=30, deadline=None)
@given(several_runs())
def test_bounds(scores):
    runs = table(scores)
    by_policy = runs.groupby("policy")["accuracy"]
    middle, worst = (function(runs, resamples=0)["value"] for function in (interquartile_mean, worst_case))
    assert (middle >= by_policy.min() - 1e-12).all()
    assert (middle <= by_policy.max() + 1e-12).all()
    assert (worst <= by_policy.mean() + 1e-12).all()
    there, back = (probability_of_improvement(runs, name, resamples=0)["value"] for name in ("b", "a"))
    assert there["a"] + back["b"] == pytest.approx(1)
    assert there["b"] == back["a"] == 0.5
    profile = performance_profile(runs, np.linspace(-0.1, 1, 12), resamples=0)
    for _, own in profile.groupby("policy"):
        assert own["value"].iloc[0] == 1
        assert own["value"].iloc[-1] == 0
        assert own["value"].is_monotonic_decreasing


def covered(function, expected, seeds, shared=0.0, **options):
    """How many of 200 intervals hold what is expected: four cells of normal scores, 0.5 on average.

    ``shared`` is the part of the variance that is a seed's in all cells. Each policy is a case of its own.
    """
    rng = np.random.default_rng(0)
    alike, own = rng.normal(size=(200, 1, seeds)), rng.normal(size=(200, 4, seeds))
    scores = 0.5 + 0.05 * (math.sqrt(shared) * alike + math.sqrt(1 - shared) * own)
    found = function(table(dict(enumerate(scores.tolist()))), resamples=500, **options)
    return float(((found["low"] <= expected) & (expected <= found["high"])).mean())


@pytest.mark.slow
def test_intervals_cover_what_they_estimate():
    assert 0.85 <= covered(interquartile_mean, 0.5, seeds=10) <= 0.97
    assert 0.7 <= covered(worst_case, 0.5, seeds=5) <= 0.97
    # If seeds matter in all cells alike, cells must not be drawn independently.
    assert covered(interquartile_mean, 0.5, seeds=10, shared=0.9) < 0.8
    assert 0.84 <= covered(interquartile_mean, 0.5, seeds=10, shared=0.9, joint=True) <= 0.97


def test_which_runs_have_the_same_seeds_in_all_cells():
    runs = table(SCORES)
    assert same_seeds(runs)
    assert same_seeds(runs.drop(index=runs.index[(runs["policy"] == "b") & (runs["seed"] == 2)]))
    assert not same_seeds(runs.drop(index=0))  # of policy a, in one cell
    assert not same_seeds(runs[(runs["policy"] == "a") | (runs["attack"] == "attack 0")])


def test_a_seed_that_is_lucky_in_all_cells_widens_the_intervals():
    lucky = [0.2, 0.5, 0.8, 0.35, 0.65]
    runs = table({"a": [lucky] * 4})
    alone, together = (of_a(interquartile_mean(runs, joint=joint)) for joint in (False, True))
    assert together["high"] - together["low"] > 1.5 * (alone["high"] - alone["low"])
