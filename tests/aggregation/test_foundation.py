"""FoundationFL: by hand, and against a slow reference."""

import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import LINE, every_family

from byzgym.aggregation import make


def slow_choices(rows):
    """The submissions of which copies may be made: those with the largest score, apart from rounding."""
    largest, smallest = rows.max(0), rows.min(0)
    scores = np.array([min(np.sqrt(((row - end) ** 2).sum()) for end in (largest, smallest)) for row in rows])
    return rows[scores >= scores.max() * (1 - 1e-9)]


@every_family
@pytest.mark.parametrize(("n", "f"), [(1, 0), (2, 0), (3, 1), (9, 4), (12, 3)])
@pytest.mark.parametrize("rule", ["trimmed_mean", "median"])
@pytest.mark.parametrize("copies", [None, 0, 7])
def test_against_reference(family, n, f, rule, copies):
    rows = reference.draw(family, n, 6, seed=n, dtype=torch.float64)
    result = make("foundation", num_byzantine=f, rule=rule, copies=copies)(rows).numpy()
    possible = []
    for choice in slow_choices(rows.numpy()):
        joined = np.vstack([rows.numpy(), *[choice] * (n // 2 if copies is None else copies)])
        expected = reference.median(joined) if rule == "median" else reference.trimmed_mean(joined, f)[0]
        possible.append(np.allclose(result, expected, rtol=1e-9, atol=1e-9 * np.abs(joined).max(0)))
    assert any(possible)


def test_on_a_line():
    # Scores 0, 1, 2, 4, 0: two copies of the fourth. The trimmed mean leaves 1, 2, 4, 4, 4 of seven.
    torch.testing.assert_close(make("foundation", num_byzantine=1)(LINE), torch.tensor([3.0]))
    torch.testing.assert_close(make("foundation", num_byzantine=0, rule="median")(LINE), torch.tensor([4.0]))


def test_any_rule_of_submissions_alone_will_do_and_is_told_f():
    rows = reference.draw("gaussian", 10, 5, seed=0)
    outcome = make("foundation", num_byzantine=2, rule={"name": "multi_krum", "num_selected": 1})(rows)
    assert (outcome == rows).all(1).any()
    with pytest.raises(ValueError, match="rule must be one of submissions alone, got 'fltrust'"):
        make("foundation", num_byzantine=0, rule="fltrust")
    with pytest.raises(ValueError, match="unknown rule 'krmu'"):
        make("foundation", num_byzantine=0, rule="krmu")


def test_a_batch_copies_in_each_run_its_own():
    runs = torch.stack([reference.draw("gaussian", 7, 5, seed) for seed in range(6)])
    rule = make("foundation", num_byzantine=2)
    together = rule(runs.reshape(2, 3, 7, 5)).reshape(6, 5)
    torch.testing.assert_close(together, torch.stack([rule(run) for run in runs]))


def test_a_large_submission_can_be_the_one_that_is_copied():
    """As the docstring warns; therefore test_every_rule.py leaves it out of the test of outliers."""
    # Scores: about sqrt(2) times 999.95 for the honest ones, sqrt(2) times 1000 for the last one.
    honest = [[0.0, 0.1, 0.0, 0.1], [0.1, 0.0, 0.1, 0.0], [0.1, 0.0, 0.0, 0.1], [0.0, 0.1, 0.1, 0.0]]
    rows = torch.tensor([*honest, [-1000.0, -1000.0, 1000.0, 1000.0]])
    assert make("foundation", num_byzantine=1)(rows).norm() > 500


def test_half_precision_does_not_overflow():
    rows = torch.tensor([[6e4], [-6e4], [1.0], [2.0], [3.0]], dtype=torch.float16)
    # Two copies of 1; the trimmed mean leaves 1, 1, 1, 2, 3.
    assert make("foundation", num_byzantine=1)(rows).tolist() == pytest.approx([1.6], abs=0.01)


def test_copies_are_checked():
    with pytest.raises(ValueError, match="copies must be an integer of at least 0"):
        make("foundation", num_byzantine=0, copies=-1)
