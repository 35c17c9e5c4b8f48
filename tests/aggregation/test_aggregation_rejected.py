"""Rows that are not finite count as not received."""

import aggregation_reference as reference
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from byzgym import aggregation

BAD = (torch.nan, torch.inf, -torch.inf)
every_rule = pytest.mark.parametrize("name", aggregation.names())


@every_rule
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("huge", [False, True])
def test_the_rule_acts_on_the_others(name, bad, huge):
    rows = reference.draw("gaussian", 12, 6, seed=0)
    if huge:
        rows *= 1e30
    rows[[1, 4], [0, 5]] = bad
    rule = aggregation.make(name, num_byzantine=2)
    others = [i for i in range(12) if i not in (1, 4)]
    expected = aggregation.make(name, num_byzantine=0)(rows[others])
    torch.testing.assert_close(rule(rows), expected)
    if rule.linear:
        credits = rule.credits(rows)
        assert credits[[1, 4]].tolist() == [0, 0]
        torch.testing.assert_close(credits.sum(), torch.tensor(1.0))


@every_rule
def test_what_is_left_of_num_byzantine_is_capped(name):
    rows = reference.draw("gaussian", 11, 6, seed=0)
    rows[0, 0] = torch.nan
    rule = aggregation.make(name, num_byzantine=2)
    expected = aggregation.make(name, num_byzantine=1)(rows[1:])
    torch.testing.assert_close(rule(rows), expected)


@every_rule
@pytest.mark.parametrize("left", [1, 2])
def test_few_rows_left(name, left):
    rows = torch.full((9, 4), torch.nan)
    rows[3 : 3 + left] = torch.tensor([[1.0, 0.0, 0.5, -1.0]])
    rule = aggregation.make(name, num_byzantine=1)
    torch.testing.assert_close(rule(rows), rows[3])
    if rule.linear:
        assert rule.credits(rows)[3 : 3 + left].sum() == 1


@every_rule
def test_no_row_left(name):
    rows = torch.full((2, 9, 4), torch.inf)
    rows[1] = reference.draw("gaussian", 9, 4, seed=0)
    rule = aggregation.make(name, num_byzantine=1)
    result = rule(rows)
    assert torch.equal(result[0], torch.zeros(4))
    torch.testing.assert_close(result[1], rule(rows[1]))
    if rule.linear:
        torch.testing.assert_close(rule.credits(rows)[0], torch.full((9,), 1 / 9))


@every_rule
def test_runs_with_different_numbers_of_rejected_rows(name):
    runs = torch.stack([reference.draw("gaussian", 9, 5, seed=seed) for seed in range(6)])
    for run, count in enumerate((0, 3, 1, 3, 0, 5)):
        runs[run, torch.randperm(9, generator=torch.Generator().manual_seed(run))[:count]] = torch.nan
    rule = aggregation.make(name, num_byzantine=1)
    together = rule(runs.reshape(3, 2, 9, 5)).reshape(6, 5)
    for run, result in zip(runs, together, strict=True):
        torch.testing.assert_close(result, rule(run))


def test_multi_krum_selects_no_more_than_are_left():
    rows = reference.draw("gaussian", 7, 5, seed=0)
    rows[:3] = torch.nan
    credits = aggregation.make("multi_krum", num_byzantine=1, num_selected=6).credits(rows)
    torch.testing.assert_close(credits, torch.tensor([0, 0, 0, 0.25, 0.25, 0.25, 0.25]))


def test_a_rule_forgets_that_rows_were_missing():
    for name in ("krum", "trimmed_mean", "faba"):
        rule = aggregation.make(name, num_byzantine=2)
        rows = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
        expected = rule(rows)
        rule(rows.index_fill(0, torch.tensor([0]), torch.nan))
        assert rule.num_byzantine == 2
        assert torch.equal(rule(rows), expected)


def test_f_falls_with_the_number_of_rows_that_are_missing():
    rows = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    rows[:3] = torch.nan  # Krum is told f = 2 of 7; of the 4 that are left, none
    rule = aggregation.make("krum", num_byzantine=2)
    assert torch.equal(rule(rows), aggregation.make("krum")(rows[3:]))


@pytest.mark.parametrize("name", aggregation.names())
def test_no_runs_give_no_results(name):
    rule = aggregation.make(name)
    assert rule(torch.zeros(0, 9, 4)).shape == (0, 4)
    if rule.linear:
        assert rule.credits(torch.zeros(2, 0, 9, 4)).shape == (2, 0, 9)


def test_credits_without_a_share_in_rejected_rows_stay_to_the_last_bit():
    credits = torch.full((3, 10), 0.1)  # whose sum in single precision is not 1
    credits[1] = torch.linspace(0, 1, 10).softmax(0) * 0.5
    credits[1, 4] = 0
    rejected = torch.zeros(3, 10, dtype=torch.bool)
    rejected[1:, 4] = True
    result = aggregation.accepted(credits, rejected)
    assert torch.equal(result[:2], credits[:2])
    assert result[2].tolist() == pytest.approx([1 / 9] * 4 + [0] + [1 / 9] * 5)


def test_credit_of_rejected_rows_goes_to_the_others_in_proportion():
    credits = torch.tensor(
        [[0.5, 0.3, 0.1, 0.1], [0.5, 0.0, 0.0, 0.0], [0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 0, 0]]
    )
    rejected = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]]).bool()
    expected = [[0, 0.6, 0.2, 0.2], [0, 0.5 / 3, 0.5 / 3, 0.5 / 3], [0] * 4, [1, 0, 0, 0]]
    torch.testing.assert_close(aggregation.accepted(credits, rejected), torch.tensor(expected))


@settings(deadline=None)
@example([[1.0, 1e-45, 0.0, 0.0, 0.0]], [[True, False, False, False, False]])
@given(
    st.lists(st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5), min_size=1, max_size=3),
    st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=3, max_size=3),
)
def test_taking_credit_away_keeps_the_sum_and_changes_nothing_the_second_time(credits, rejected):
    credits = torch.tensor(credits)
    rejected = torch.tensor(rejected[: len(credits)])
    result = aggregation.accepted(credits, rejected)
    assert (result >= 0).all()
    assert not result[rejected].any()
    expected = credits.sum(1).masked_fill(rejected.all(1), 0)
    torch.testing.assert_close(result.sum(1), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(aggregation.accepted(result, rejected), result)
