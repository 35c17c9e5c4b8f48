"""What holds for every rule with a memory or with the server's data; see also test_testing.py."""

import aggregation_reference as reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from server_views import normal, view_of

from byzgym import aggregation
from byzgym.aggregation import NotLinearError
from byzgym.memory import Memory

NAMES = [name for name in aggregation.names() if aggregation.make(name, num_byzantine=0).needs]
every_rule = pytest.mark.parametrize("name", NAMES)


def play(rule, runs, target, memory=None):
    """The decisions of some rounds, given submissions [rounds, E, n, d]."""
    memory = Memory(runs.shape[1]) if memory is None else memory
    return [rule.decide(view_of(rows, target, memory)) for rows in runs]


@every_rule
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 12), f=st.integers(0, 5))
def test_order_of_workers_does_not_matter(name, seed, n, f):
    rule = aggregation.make(name, num_byzantine=min(f, (n - 1) // 2))
    runs, target = normal(3, 2, n, 15, seed=seed), normal(2, 15, seed=seed + 1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for one, other in zip(play(rule, runs, target), play(rule, runs[:, :, order], target), strict=True):
        torch.testing.assert_close(one.update, other.update, rtol=1e-6, atol=1e-9)
        if one.credits is not None:
            torch.testing.assert_close(one.credits[:, order], other.credits, rtol=1e-6, atol=1e-9)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_all_equal(name, dtype, n, size):
    rule = aggregation.make(name, num_byzantine=0)
    runs = (size * normal(3, 2, 1, 6)).expand(-1, -1, n, -1).to(dtype)
    for decision in play(rule, runs, -runs[0, :, 0]):
        assert decision.update.dtype == dtype
        assert decision.update.isfinite().all()
        if rule.linear:
            assert decision.credits.sum(1).le(1 + 1e-2).all()


@every_rule
@pytest.mark.parametrize("family", reference.FAMILIES)
def test_updates_are_finite_whatever_is_sent(name, family):
    rule = aggregation.make(name, num_byzantine=2)
    runs = torch.stack([reference.draw(family, 9, 6, seed)[None] for seed in range(4)])
    for decision in play(rule, runs, normal(1, 6).float()):
        assert decision.update.isfinite().all()


@every_rule
def test_a_new_episode_is_as_the_first(name):
    rule, memory = aggregation.make(name, num_byzantine=1), Memory(2)
    runs, target = normal(4, 2, 7, 6), normal(2, 6, seed=1)
    first = play(rule, runs, target, memory)
    memory.reset([1])
    again = play(rule, runs, target, memory)
    for before, after in zip(first, again, strict=True):
        torch.testing.assert_close(before.update[1], after.update[1])


@every_rule
def test_what_is_missing_is_named(name):
    rule, rows = aggregation.make(name, num_byzantine=0), normal(1, 4, 3)
    with pytest.raises(TypeError, match=r"needs .* which a tensor lacks: call decide\(view\)"):
        rule(rows)
    for need, problem in [("memory", "keeps a memory"), ("qv", "reads the QV loss")]:
        if need in rule.needs:
            view = view_of(
                rows, None if need == "qv" else normal(1, 3), None if need == "memory" else Memory(1)
            )
            with pytest.raises(ValueError, match=problem):
                rule.decide(view)


@every_rule
def test_who_has_no_credits_says_so(name):
    rule, view = aggregation.make(name, num_byzantine=0), view_of(normal(1, 4, 3), normal(1, 3), Memory(1))
    if rule.linear:
        assert rule.credits(view).shape == (1, 4)
    else:
        with pytest.raises(NotLinearError):
            rule.credits(view)


@pytest.mark.parametrize("name", [name for name in NAMES if "memory" in aggregation.make(name).needs])
def test_a_memory_is_of_clients_and_not_of_rows(name):
    """Cohorts of 4 of 8 clients: a client is known again in any row, and a new one has no past."""
    cohorts = torch.tensor([[0, 1, 2, 7], [0, 1, 2, 7], [3, 4, 5, 6], [7, 3, 0, 5]])
    target, sent = normal(1, 6), normal(4, 8, 6, seed=1)
    sent[:, 7] = -20 * target

    def decide(orders):
        rule, memory, found = aggregation.make(name, num_byzantine=1), Memory(1), []
        for number, (cohort, order) in enumerate(zip(cohorts, orders, strict=True)):
            workers = cohort[order][None]
            view = view_of(
                sent[number][workers],
                target,
                memory,
                workers=workers,
                total_workers=8,
                round=torch.tensor([number]),
            )
            found.append(rule.decide(view))
        return found

    straight = [torch.arange(4)] * 4
    shuffled = [torch.tensor(order) for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 0, 1], [1, 0, 3, 2])]
    for one, other, order in zip(decide(straight), decide(shuffled), shuffled, strict=True):
        torch.testing.assert_close(one.update, other.update)
        if one.credits is not None:
            torch.testing.assert_close(one.credits[:, order], other.credits)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_row_near_the_largest_number(name, dtype):
    rows = torch.ones(1, 10, 600, dtype=dtype)
    rows[0, 0] = torch.finfo(dtype).max * (-1.0) ** torch.arange(600)
    rule = aggregation.make(name, num_byzantine=1)
    for decision in play(rule, torch.stack([rows] * 3), -torch.ones(1, 600, dtype=dtype)):
        assert decision.update.isfinite().all()
