"""Snapshots: what follows a restore is what followed the snapshot, and what is no snapshot is refused."""

import pytest
import torch
from simulation_cases import EVERYTHING, assert_same, make, play, state_of, uniform_update

from byzgym import aggregation, attacks


def trace(simulation, rounds):
    states = []
    for number in range(rounds):
        credits = torch.full((simulation.num_envs, 6), (1 + number % 3) / 20)
        simulation.apply(aggregation.Decision(1e-3 * uniform_update(simulation), credits))
        states.append(state_of(simulation))
    return states


def test_a_restored_run_repeats_itself():
    simulation = make(**EVERYTHING)
    trace(simulation, 5)
    snapshot, state = simulation.snapshot(), state_of(simulation)
    first = trace(simulation, 25)
    for _ in range(2):  # a snapshot can be used again
        simulation.restore(snapshot)
        assert_same(simulation, state)
        for one, other in zip(first, trace(simulation, 25), strict=True):
            assert_same(one, other)


def test_a_former_episode_can_be_restored():
    simulation = make(2, **EVERYTHING)
    wider = False
    for seed in range(1, 30, 7):
        play(simulation)
        snapshot, state, loss = simulation.snapshot(), state_of(simulation), simulation.initial_loss.clone()
        shares, following = simulation.workers.batches.shares, trace(simulation, 2)
        simulation.reset([seed, seed + 1])
        play(simulation)
        assert not torch.equal(simulation.byzantine, state["byzantine"])
        wider |= simulation.workers.batches.shares.shape > shares.shape
        simulation.restore(snapshot)
        assert_same(simulation, state)
        assert torch.equal(simulation.initial_loss, loss)
        for one, other in zip(following, trace(simulation, 2), strict=True):
            assert_same(one, other)
    assert wider  # some shares were longer than any before


class Counting(attacks.Attack):
    """Sends how often it has acted before."""

    def __init__(self, by=1):
        self.by = by

    def corrupt(self, gradients, byzantine, context):
        count = context.memory.read("count")
        context.memory.write("count", count + self.by)
        return count[:, None, None].expand_as(gradients)


def counted(simulation):
    return [row[mask][0, 0].item() for row, mask in zip(simulation.gradients, simulation.byzantine, strict=True)]


def test_memories_travel_in_snapshots():
    attacks.register("test_counting", Counting)
    simulation = make(attack="test_counting")
    play(simulation, rounds=2)
    early = simulation.snapshot()
    simulation.memory.write("first written later", torch.ones(2))
    play(simulation, rounds=3)
    late = simulation.snapshot()
    for snapshot, count, kept in ((early, 2, 0), (late, 5, 1), (early, 2, 0)):
        simulation.restore(snapshot)
        assert counted(simulation) == [count, count]
        assert simulation.memory.read("first written later").tolist() == [kept, kept]
        play(simulation)
        assert counted(simulation) == [count + 1, count + 1]


def test_attacks_added_later_do_not_invalidate():
    attacks.register("test_counting", Counting)
    simulation = make(attack="test_counting")
    play(simulation)
    snapshot = simulation.snapshot()
    simulation.reset([5, 6], attack="test_counting:by=10")
    play(simulation, rounds=2)
    assert counted(simulation) == [20, 20]
    other = simulation.snapshot()
    simulation.restore(snapshot)
    assert counted(simulation) == [1, 1]
    simulation.restore(other)
    assert counted(simulation) == [20, 20]
    simulation.restore(snapshot)
    simulation.reset([5, 6], attack="test_counting:by=10")
    assert counted(simulation) == [0, 0]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda snapshot: None,
        lambda snapshot: [],
        lambda snapshot: {},
        lambda snapshot: {"state": None, "generators": None, "memories": None},
        lambda snapshot: {"state": {}, "generators": [], "memories": []},
        lambda snapshot: snapshot["state"],
        lambda snapshot: {**snapshot, "generators": snapshot["generators"][:1]},
        lambda snapshot: {key: value for key, value in snapshot.items() if key != "memories"},
    ],
    ids=["none", "list", "empty", "nothing", "empty_parts", "part", "generator", "memories"],
)
def test_what_is_no_snapshot_changes_nothing(spoil):
    simulation = make(**EVERYTHING)
    spoilt = spoil(simulation.snapshot())
    play(simulation)
    state = state_of(simulation)
    with pytest.raises(ValueError, match="snapshot must be"):
        simulation.restore(spoilt)
    assert_same(simulation, state)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_envs": 3},
        {"num_workers": 4},
        {"batch_size": 5},
        {"model": "softmax"},
        {"momentum": 0.5},
        {"qv_size": 3},
        {"secure_group_size": 2},
    ],
    ids=str,
)
def test_snapshots_of_another_shape_are_refused(arguments):
    simulation, other = make(), make(seed=5, **arguments)
    state = state_of(simulation)
    for one, snapshot in ((simulation, other.snapshot()), (other, simulation.snapshot())):
        with pytest.raises(ValueError, match="snapshot must be of a simulation like this one, in which"):
            one.restore(snapshot)
    assert_same(simulation, state)
