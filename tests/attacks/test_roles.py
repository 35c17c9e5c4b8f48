"""Role functions: who is Byzantine when."""

from __future__ import annotations

import pytest
import torch
from attack_cases import context_for, mask_of, states_of
from hypothesis import given, settings
from hypothesis import strategies as st

from byzgym.attacks import roles

SPECS = [
    "static",
    {"name": "redrawn", "period": 2},
    "pretense",
    "randomized",
    "fluctuating",
    {"name": "randomized", "period": 3, "fixed_honest": False},
    {"name": "randomized", "period": 1, "probability": 0.9},
    {"name": "fluctuating", "period": 4, "low": 1, "high": 3},
    {"name": "pretense", "until": 4},
    "rotating",
    {"name": "rotating", "period": 2, "step": -2},
    "intermittent",
    {"name": "intermittent", "on": 2, "off": 3, "start": 4},
    {"name": "schedule", "changes": [[3, [0, 5]], [9, []], [20, [1]]]},
]


def play(role, assigned, rounds, seed=7):
    """The masks [rounds, E, n] of episodes."""
    context = context_for(torch.zeros(*assigned.shape, 1), seed)
    current, masks = assigned, []
    for t in range(rounds):
        context.round = torch.full((len(assigned),), t)
        current = role(assigned, current, context)
        masks.append(current)
    return torch.stack(masks)


@st.composite
def assignments(draw):
    num_envs, num_workers = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    rows = st.lists(st.booleans(), min_size=num_workers, max_size=num_workers)
    return torch.tensor(draw(st.lists(rows, min_size=num_envs, max_size=num_envs)))


@pytest.mark.parametrize("spec", SPECS, ids=str)
class TestEveryRole:
    def test_answers_with_a_mask_and_leaves_its_input(self, spec):
        assigned = mask_of(6, [0, 1], [2, 3, 4], [])
        before, state = assigned.clone(), torch.random.get_rng_state()
        masks = play(roles.make_from(spec), assigned, 60)
        assert masks.shape == (60, 3, 6)
        assert masks.dtype == torch.bool
        assert torch.equal(assigned, before)
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_a_batch_equals_its_environments_alone(self, spec):
        role = roles.make_from(spec)
        assigned = mask_of(6, [0, 1], [2, 3, 4], [5], [])
        context = context_for(torch.zeros(4, 6, 1), seed=7)
        singles = [context_for(torch.zeros(1, 6, 1), seed=7 + env) for env in range(4)]
        current = assigned
        expected = [assigned[env : env + 1] for env in range(4)]
        for t in range(60):
            # The environments are in different rounds of their episodes.
            context.round = torch.tensor([t, t + 1, t + 2, t + 50])
            current = role(assigned, current, context)
            for env, single in enumerate(singles):
                single.round = context.round[env : env + 1]
                expected[env] = role(assigned[env : env + 1], expected[env], single)
                assert torch.equal(current[env : env + 1], expected[env])
                assert torch.equal(states_of(single)[0], states_of(context)[env])


def test_static_and_pretense():
    assigned = mask_of(4, [0], [1, 2])
    assert (play(roles.make("static"), assigned, 5) == assigned).all()
    masks = play(roles.make("pretense", until=3), assigned, 6)
    assert not masks[:3].any()
    assert (masks[3:] == assigned).all()
    assert (play(roles.make("pretense", until=0), assigned, 2) == assigned).all()


@settings(deadline=None, max_examples=50)
@given(assignments(), st.integers(1, 5), st.floats(0, 1), st.booleans(), st.integers(0, 1000))
def test_randomized_keeps_one_honest(assigned, period, probability, fixed_honest, seed):
    role = roles.make("randomized", period=period, probability=probability, fixed_honest=fixed_honest)
    masks = play(role, assigned, 12, seed)
    assert (masks[:period] == assigned).all()
    for t in range(1, 12):
        if t % period:
            assert torch.equal(masks[t], masks[t - 1])
    after = masks[period:]
    assert not after.all(-1).any()
    if fixed_honest:
        first = [(~row).nonzero()[0, 0] if not row.all() else 0 for row in assigned]
        for env, worker in enumerate(first):
            assert not after[:, env, worker].any()


def test_randomized_reverses_with_its_probability():
    assigned = mask_of(10, *[[7, 8, 9]] * 200)
    masks = play(roles.make("randomized", period=2, probability=0.3), assigned, 11)
    reversals = (masks[2::2] ^ masks[:-2:2]).double().mean((0, 1))
    assert reversals[0] == 0  # the first honest worker
    # 1000 reversals each: the standard deviation is 0.0145.
    assert ((reversals[1:] - 0.3).abs() < 0.06).all()


def test_randomized_workers_reverse_independently():
    assigned = mask_of(10, *[[7, 8, 9]] * 500)
    masks = play(roles.make("randomized", period=1, probability=0.5), assigned, 5)
    flips = (masks[1:] ^ masks[:-1])[..., 1:].reshape(-1, 9).double()
    correlation = torch.corrcoef(flips.T) - torch.eye(9)
    assert correlation.abs().max() < 0.1


def test_the_last_honest_one_is_drawn_uniformly():
    # Nobody is Byzantine and everybody reverses: one of five must be spared.
    assigned = mask_of(5, *[[]] * 1000)
    role = roles.make("randomized", period=1, probability=1.0, fixed_honest=False)
    after = play(role, assigned, 2)[1]
    assert (after.sum(-1) == 4).all()
    # 200 expected for each worker; the standard deviation is 12.6.
    assert ((~after).sum(0) - 200).abs().max() < 60


@settings(deadline=None, max_examples=50)
@given(assignments(), st.integers(1, 4), st.data())
def test_fluctuating_keeps_its_bounds(assigned, period, data):
    num_workers = assigned.shape[1]
    high = data.draw(st.integers(0, num_workers))
    low = data.draw(st.integers(0, high))
    role = roles.make("fluctuating", period=period, low=low, high=high)
    masks = play(role, assigned, 9, seed=data.draw(st.integers(0, 1000)))
    counts = masks.sum(-1)
    assert counts.min() >= low
    assert counts.max() <= high
    for t in range(1, 9):
        if t % period:
            assert torch.equal(masks[t], masks[t - 1])


def test_fluctuating_draws_uniformly():
    masks = play(roles.make("fluctuating"), mask_of(5, *[[0]] * 1000), 2)
    for drawn in masks:
        counts = torch.bincount(drawn.sum(-1), minlength=6)
        assert counts[5] == 0  # somebody is honest unless asked otherwise
        assert (counts[:5] - 200).abs().max() < 60
        assert (drawn.sum(0) - 400).abs().max() < 80
    assert not torch.equal(masks[0], masks[1])


def test_fluctuating_may_make_everybody_byzantine():
    assert play(roles.make("fluctuating", low=4, high=4), mask_of(4, [0]), 3).all()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("randomized", {"probability": 1.1}),
        ("randomized", {"fixed_honest": 1}),
        ("pretense", {"until": -1}),
        ("fluctuating", {"period": 0}),
        ("fluctuating", {"high": 2, "low": 3}),
    ],
)
def test_bad_parameters_are_named(name, parameters):
    with pytest.raises(ValueError, match=f"^{next(iter(parameters))}"):
        roles.make(name, **parameters)


@pytest.mark.parametrize("parameters", [{"high": 5}, {"low": 4}])
def test_bounds_beyond_the_workers_are_refused(parameters):
    with pytest.raises(ValueError, match=f"{next(iter(parameters))} must be at most"):
        play(roles.make("fluctuating", **parameters), mask_of(4, [0]), 1)


def test_redrawn_keeps_the_number_and_changes_the_workers_when_due():
    redrawn = roles.make("redrawn", period=5)
    assigned = mask_of(8, [0, 1, 2], [7], [])
    context = context_for(torch.zeros(3, 8, 2))
    seen = []
    for number in range(16):
        current = seen[-1] if seen else assigned
        context.round[:] = number
        seen.append(redrawn(assigned, current, context))
        assert seen[-1].sum(1).tolist() == [3, 1, 0]
        if number % 5 or not number:
            assert torch.equal(seen[-1], current)
    assert len({tuple(mask[0].tolist()) for mask in seen}) > 2


def test_rotating_moves_the_set_on():
    assigned = mask_of(5, [0, 1], [4], [0, 1, 2, 3, 4], [])
    masks = play(roles.make("rotating", period=3, step=2), assigned, 40)
    for t in range(40):
        for env in range(4):
            expected = {(worker + 2 * (t // 3)) % 5 for worker in assigned[env].nonzero()[:, 0].tolist()}
            assert set(masks[t, env].nonzero()[:, 0].tolist()) == expected
    back = play(roles.make("rotating", period=1, step=-1), assigned, 3)
    assert back[1, 0].tolist() == [True, False, False, False, True]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(0, 4), st.integers(0, 6))
def test_intermittent_goes_on_and_off(on, off, start):
    assigned = mask_of(4, [0], [1, 2])
    masks = play(roles.make("intermittent", on=on, off=off, start=start), assigned, 30)
    for t in range(30):
        attacking = t >= start and (t - start) % (on + off) < on
        assert torch.equal(masks[t], assigned if attacking else torch.zeros_like(assigned))


def test_a_schedule_is_followed():
    assigned = mask_of(4, [0], [1, 2])
    masks = play(roles.make("schedule", changes=[[2, [3]], [4, [0, 1]], [5, []]]), assigned, 8)
    expected = [[], [], [3], [3], [0, 1], [], [], []]
    for t, workers in enumerate(expected):
        assert torch.equal(masks[t], mask_of(4, workers, workers))
    spelt = roles.make_from("schedule:changes=[[0, [1]], (3, (2,))]")
    assert spelt.changes == [(0, [1]), (3, [2])]


@pytest.mark.parametrize(
    "changes",
    [
        "0",
        [],
        5,
        [[0]],
        [["0", [1]]],
        [[0, 1]],
        [[0, [-1]]],
        [[3, [0]], [3, [1]]],
        [[3, [0]], [2, [1]]],
        [[-1, []]],
    ],
)
def test_a_bad_schedule_is_refused(changes):
    with pytest.raises(ValueError, match=r"^changes"):
        roles.make("schedule", changes=changes)


def test_a_schedule_may_name_workers_that_exist_only():
    assigned = mask_of(4, [0])
    with pytest.raises(ValueError, match=r"changes must name workers from 0 to 3, got 4"):
        play(roles.make("schedule", changes=[[9, [4]]]), assigned, 1)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("rotating", {"period": 0}), ("rotating", {"step": 0.5}), ("intermittent", {"on": 0}),
     ("intermittent", {"off": -1}), ("intermittent", {"start": -1})],
)  # fmt: skip
def test_bad_parameters_of_the_new_ones_are_named(name, parameters):
    with pytest.raises(ValueError, match=f"^{next(iter(parameters))}"):
        roles.make(name, **parameters)
