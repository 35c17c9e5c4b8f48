"""Decisions, the short forms of a policy, and credit that is moved or combined."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from byzgym.aggregation import Decision, NotLinearError, Policy, ServerView, combine, move_credit

UPDATE = torch.zeros(2, 5)
NAN = torch.full((2, 3), torch.nan)


def view_of(gradients):
    return ServerView(gradients, torch.zeros(len(gradients), gradients.shape[2]), 0.1, None)


@pytest.mark.parametrize(
    ("update", "credits", "message"),
    [
        ([[0.0]], None, "update must be a tensor, got list"),
        (UPDATE[0], None, r"update must have shape \[E, d\], got \[5\]"),
        (UPDATE.to_sparse(), None, "update must be a dense tensor"),
        (UPDATE, [[0.1] * 3] * 2, "credits must be a tensor, got list"),
        (UPDATE, torch.ones(3, 3) / 3, r"credits must have shape \[2, n\], got \[3, 3\]"),
        (UPDATE, torch.full((2, 3), 0.34), "credits must not be negative and must sum to at most 1"),
        (UPDATE, torch.tensor([[0, 0, 0], [1.5, -0.5, 0]]), "credits must not be negative"),
        (UPDATE, torch.tensor([[0, 0, 0], [torch.nan, 0, 0]]), "credits must not be negative"),
        (UPDATE, torch.tensor([[0, 0, 0], [torch.inf, 0, 0]]), "credits must not be negative"),
    ],
)
def test_what_is_no_decision_is_refused(update, credits, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Decision(update, credits)


@pytest.mark.parametrize(
    "credits", [torch.zeros(2, 3), torch.full((2, 3), 0.3335), NAN, NAN.index_fill(0, torch.tensor(1), 0.2)]
)
def test_credits_may_sum_to_less_or_be_missing(credits):
    assert Decision(UPDATE, credits.clone().requires_grad_()).credits.shape == (2, 3)
    assert Decision(UPDATE).credits is None


def test_decisions_from_credits():
    rows = torch.tensor([[[1.0], [3.0], [torch.nan]], [[2.0], [4.0], [8.0]]])
    credits = torch.tensor([[0.2, 0.2, 0.4], [0.5, 0.0, 0.5]], dtype=torch.float64).requires_grad_()
    decision = Decision.from_credits(credits, view_of(rows))
    torch.testing.assert_close(decision.credits, torch.tensor([[0.4, 0.4, 0], [0.5, 0, 0.5]]))
    torch.testing.assert_close(decision.update, torch.tensor([[1.6], [5.0]]))
    assert not decision.update.requires_grad
    with pytest.raises(ValueError, match=r"credits must have shape \[2, 3\], got \[2, 2\]"):
        Decision.from_credits(torch.zeros(2, 2), view_of(rows))


def test_short_forms_of_a_policy():
    class Mine(Policy):
        def __init__(self, credits):
            self.given = credits

        def decide(self, view):
            return Decision(view.gradients.sum(1), self.given)

    view = view_of(torch.ones(2, 3, 5))
    assert torch.equal(Mine(None).aggregate(view), torch.full((2, 5), 3.0))
    assert torch.equal(Mine(torch.ones(2, 3) / 3).credits(view), torch.ones(2, 3) / 3)
    with pytest.raises(NotLinearError, match=r"^Mine has no credits"):
        Mine(None).credits(view)


def test_rows_without_credit_spoil_nothing():
    rows = torch.tensor([[torch.nan, torch.inf], [1.0, 2.0]])
    assert torch.equal(combine(torch.tensor([0.0, 1.0]), rows), rows[1])


def test_credit_moves_in_proportion():
    credits = torch.tensor([[5, 3, 1, 1], [5, 0, 0, 0], [2, 2, 2, 2], [5, 5, 0, 0]]) / 10
    rejected = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]]).bool()
    expected = [[0, 0.6, 0.2, 0.2], [0, 0.5 / 3, 0.5 / 3, 0.5 / 3], [0] * 4, [1, 0, 0, 0]]
    torch.testing.assert_close(move_credit(credits, rejected), torch.tensor(expected))


@settings(deadline=None)
@example([[1.0, 1e-45, 0.0, 0.0, 0.0]], [[True, False, False, False, False]])
@example([[0.1, 0.3, 0.3, 0.3, 0.0], [0.2] * 5], [[False] * 4 + [True]] * 2)
@given(
    st.lists(st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5), min_size=1, max_size=3),
    st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=3, max_size=3),
)
def test_moving_credit_keeps_the_sum(credits, rejected):
    credits = torch.tensor(credits)
    rejected = torch.tensor(rejected[: len(credits)])
    result = move_credit(credits, rejected)
    assert (result >= 0).all()
    assert not result[rejected].any()
    expected = credits.sum(1).masked_fill(rejected.all(1), 0)
    torch.testing.assert_close(result.sum(1), expected, rtol=1e-5, atol=1e-6)
    same = ~(rejected & (credits > 0)).any(1)  # to the last bit: what else is in a batch must not matter
    assert torch.equal(result[same], credits[same])
    assert torch.equal(move_credit(result, rejected), result)
