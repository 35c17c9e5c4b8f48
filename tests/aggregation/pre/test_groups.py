"""Bucketing and secure groups."""

import math

import pytest
import torch
from aggregation_reference import draw
from hypothesis import given, settings
from hypothesis import strategies as st

from byzgym import aggregation
from byzgym.aggregation import ServerView, pre
from byzgym.aggregation.pre import Bucketing, SecureGroups
from byzgym.simulation import Simulation


def view_of(gradients, **fields):
    theta = torch.zeros(len(gradients), gradients.shape[2])
    return ServerView(gradients, theta, 0.1, **{"qv_loss": None, **fields})


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 13), size=st.integers(1, 6))
def test_buckets_are_a_partition(seed, n, size):
    rows = draw("gaussian", n, 3, seed, torch.float64)
    matrix = Bucketing(size=size).matrix(rows)
    assert matrix.shape == (math.ceil(n / size), n)
    assert ((matrix > 0).sum(0) == 1).all()  # everybody is in one bucket
    counts = (matrix > 0).sum(1).tolist()
    assert counts == [size] * (n // size) + [n % size] * (n % size > 0)
    torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64))
    torch.testing.assert_close(Bucketing(size=size)(rows), matrix @ rows)


def orders(view, size=2, **parameters):
    """Who shares a bucket with worker 0, from the credits of the first bucket."""
    rule = aggregation.make_from({"name": "krum", "pre": [{"name": "bucketing", "size": size, **parameters}]})
    return [row.nonzero()[:, 0].tolist() for row in rule.credits(view)]


@pytest.mark.filterwarnings("ignore:rule bucketing")
def test_buckets_are_drawn_for_every_round_and_run():
    rows = draw("gaussian", 12, 4, 0).expand(3, -1, -1).clone()
    drawn = {
        (round, seed): orders(view_of(rows, round=torch.full((3,), round), seed=torch.tensor([seed, 8, 9])))
        for round in range(4)
        for seed in range(4)
    }
    again = orders(view_of(rows, round=torch.full((3,), 2), seed=torch.tensor([1, 8, 9])))
    assert again == drawn[2, 1]  # a second decision in a round draws the same
    assert len({tuple(order[0]) for order in drawn.values()}) > 5
    assert all(drawn[2, seed][1:] == drawn[2, 0][1:] for seed in range(4))  # whatever runs beside it
    assert orders(view_of(rows), seed=1) != orders(view_of(rows), seed=2)
    assert len({tuple(order) for order in orders(view_of(rows, seed=torch.tensor([3, 4, 5])))}) > 1


def test_every_order_is_as_likely():
    pairs = torch.zeros(4, 4)
    for seed in range(600):
        together = Bucketing(seed=seed).matrix(torch.eye(4)) > 0
        pairs += together[0].float()[:, None] * together[0].float()
    shares = pairs / 600
    assert (shares.diagonal() - 1 / 2).abs().max() < 0.08
    assert (shares[~torch.eye(4, dtype=torch.bool)] - 1 / 6).abs().max() < 0.06


def test_tensors_that_differ_get_other_buckets():
    one, other = draw("gaussian", 9, 4, 0), draw("gaussian", 9, 4, 1)
    assert torch.equal(Bucketing().matrix(one), Bucketing().matrix(one.clone()))
    assert not torch.equal(Bucketing().matrix(one), Bucketing().matrix(other))


def test_environments_of_a_simulation_draw_by_themselves():
    arguments = {"task": "synthetic", "num_workers": 8, "num_byzantine": 2, "attack": "none"}
    both, second = Simulation.make(2, seed=5, **arguments), Simulation.make(1, seed=6, **arguments)
    seeds = both.view.seed.clone()
    assert seeds[0] != seeds[1]
    assert seeds[1] == second.view.seed[0]
    snapshot = both.snapshot()
    both.reset([1, 2])
    assert not torch.equal(both.view.seed, seeds)
    both.restore(snapshot)
    assert torch.equal(both.view.seed, seeds)
    assert both.view.of(torch.tensor([1])).seed.tolist() == seeds[1:].tolist()


def test_groups_by_hand():
    rows = torch.tensor([[1.0], [3.0], [5.0], [9.0], [10.0]])
    groups = SecureGroups(size=2)
    assert groups(rows)[:, 0].tolist() == [2, 7, 10]
    half = [0.5, 0.5]
    assert groups.matrix(rows).tolist() == [[*half, 0, 0, 0], [0, 0, *half, 0], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_submission_that_is_not_finite_spoils_its_group(bad):
    rows = torch.arange(12.0).view(6, 2)
    rows[2, 0] = bad
    groups = SecureGroups(size=2)
    assert groups(rows).isnan().all(1).tolist() == [False, True, False]
    rule = aggregation.make("mean", pre=[groups], num_byzantine=1)
    torch.testing.assert_close(rule.credits(rows), torch.tensor([0.25, 0.25, 0, 0, 0.25, 0.25]))


def test_as_the_simulation_forms_them():
    arguments = {"task": "synthetic", "num_workers": 9, "num_byzantine": 0, "attack": "none"}
    single, grouped = (Simulation.make(2, 0, **arguments, secure_group_size=size) for size in (1, 3))
    torch.testing.assert_close(SecureGroups(size=3)(single.gradients), grouped.gradients)


def test_f_of_the_groups():
    rule = aggregation.make_for("bucketing:size=2+krum", 11, 5)
    assert rule.max_byzantine(11) == 1  # 6 buckets: 6 >= 2f + 3
    assert rule.num_byzantine == 1
    with pytest.raises(ValueError, match=r"n=11 and num_byzantine=2: Krum needs n >= 2f \+ 3, got n=6"):
        aggregation.make("bucketing+krum", num_byzantine=2)(torch.ones(11, 2))
    assert Bucketing(size=4).num_bad(11, 7) == 3  # no more than there are


@pytest.mark.parametrize("size", [0, 1.5, True, "2"])
def test_bad_sizes(size):
    for name in ("bucketing", "secure_groups"):
        with pytest.raises(ValueError, match="size must be an integer of at least 1"):
            pre.make(name, size=size)


def test_large_numbers_have_a_mean():
    rows = torch.ones(5, 3)
    rows[0] = rows[1] = 3e38
    found = pre.make("secure_groups", size=2)(rows)
    torch.testing.assert_close(found, torch.tensor([[3e38], [1.0], [1.0]]).expand(3, 3))
