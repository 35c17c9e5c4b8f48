"""What rules that draw random numbers have in common."""

import pytest
import torch

from byzgym import aggregation
from byzgym.aggregation import ServerView, registry
from byzgym.memory import Memory

RULES = ["dnc:sub_dimension=3,iterations=1", "flame", "gas:num_parts=7", "signguard:portion=0.05"]
every_rule = pytest.mark.parametrize("spec", RULES)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build(spec, **parameters):
    return aggregation.make_from({**registry.parse(spec), "num_byzantine": 2, **parameters})


def view_of(rows, rounds, memory=None):
    theta = torch.zeros(len(rows), rows.shape[2])
    return ServerView(rows, theta, 0.1, None, round=torch.tensor(rounds), memory=memory)


@every_rule
def test_draws_follow_from_seed_and_round(spec):
    rows = normal(1, 9, 60)
    updates = [build(spec).decide(view_of(rows, [number])).update for number in range(12)]
    for number, update in enumerate(updates):
        assert torch.equal(build(spec).decide(view_of(rows, [number])).update, update)
    assert len({tuple(update[0].tolist()) for update in updates}) > 1
    seeded = [build(spec, seed=seed).decide(view_of(rows, [0])).update for seed in range(12)]
    assert torch.equal(seeded[0], updates[0])
    assert len({tuple(update[0].tolist()) for update in seeded}) > 1


@every_rule
def test_runs_with_other_seeds_draw_other_numbers(spec):
    rows, rule = normal(1, 9, 60), build(spec)
    view = view_of(rows.expand(12, -1, -1), [3] * 12)
    view.seed = torch.arange(12)
    together = rule.decide(view).update
    assert len({tuple(update.tolist()) for update in together}) > 1
    alone = view_of(rows, [3])
    alone.seed = torch.tensor([7])
    torch.testing.assert_close(rule.decide(alone).update[0], together[7])


@every_rule
def test_on_tensors_draws_follow_from_the_seed_alone(spec):
    rows = normal(3, 9, 60)
    torch.testing.assert_close(build(spec)(rows[:1]), build(spec).decide(view_of(rows[:1], [0])).update)
    rows[2, 4] = torch.nan
    together = build(spec)(rows)
    for run in range(3):
        torch.testing.assert_close(build(spec)(rows[run]), together[run])
    assert len({tuple(build(spec, seed=seed)(rows[0]).tolist()) for seed in range(12)}) > 1


@every_rule
def test_behind_a_pre_aggregator_draws_follow_from_seed_and_round(spec):
    rows, rule = normal(1, 9, 60), build(f"static_clipping:max_norm=100+{spec}")
    plain = build(spec)
    for number in range(4):
        view = view_of(rows, [number])
        torch.testing.assert_close(rule.decide(view).update, plain.decide(view).update)


@every_rule
def test_environments_may_be_in_different_rounds(spec):
    rows, rule = normal(4, 9, 60), build(spec)
    rows[3, 1] = torch.nan
    rounds = [5, 0, 5, 2]
    together = rule.decide(view_of(rows, rounds, Memory(4)))
    for env, number in enumerate(rounds):
        alone = rule.decide(view_of(rows[[env]], [number]))
        torch.testing.assert_close(together.update[[env]], alone.update)
        if rule.linear:
            torch.testing.assert_close(together.credits[[env]], alone.credits)
    assert (together.credits is not None) == rule.linear


@every_rule
def test_no_runs(spec):
    view = view_of(normal(0, 9, 60), [])
    assert build(spec).decide(view).update.shape == (0, 60)


@every_rule
def test_a_bad_seed_is_named(spec):
    with pytest.raises(ValueError, match="seed must be an integer"):
        build(spec, seed=-1)
