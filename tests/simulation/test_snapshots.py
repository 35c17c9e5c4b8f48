"""Snapshots: what follows a restore is what followed the snapshot, and what is no snapshot is refused."""

import pytest
import torch
from simulation_cases import assert_same, make, make_remembering, play, state_of


def trace(simulation, rounds):
    states = []
    for _ in range(rounds):
        play(simulation)
        states.append(state_of(simulation))
    return states


def assert_repeats(simulation, states):
    for one, other in zip(states, trace(simulation, len(states)), strict=True):
        assert_same(one, other)


def test_a_restored_run_repeats_itself():
    simulation = make_remembering()
    play(simulation, rounds=5)
    snapshot, state = simulation.snapshot(), state_of(simulation)
    states = trace(simulation, 25)
    for _ in range(2):  # a snapshot can be used again
        simulation.restore(snapshot)
        assert_same(simulation, state)
        assert_repeats(simulation, states)


def test_a_former_episode_can_be_restored():
    simulation = make_remembering()
    wider = False
    for seed in range(1, 30, 7):
        play(simulation)
        snapshot, state = simulation.snapshot(), state_of(simulation)
        shares, states = simulation.workers.batches.shares, trace(simulation, 2)
        simulation.reset([seed, seed + 1])
        play(simulation)
        assert not torch.equal(simulation.view.theta, state["theta"])
        wider |= simulation.workers.batches.shares.shape > shares.shape
        simulation.restore(snapshot)
        assert_same(simulation, state)
        assert_repeats(simulation, states)
    assert wider  # some shares were longer than any before


def counting(by=1):
    """An attack that sends a count of the rounds in which it has acted."""

    def attack(gradients, byzantine, context):
        count = context.memory.read("count")
        context.memory.write("count", count + by)
        return count[:, None, None].expand_as(gradients)

    return attack


def test_attacks_and_names_new_since_then():
    simulation = make(attack=counting())
    snapshots = [simulation.snapshot()]
    simulation.memory.write("first written later", torch.ones(2))
    play(simulation, rounds=2)
    snapshots.append(simulation.snapshot())
    simulation.reset([5, 6], attack=counting(10))
    play(simulation, rounds=3)
    snapshots.append(simulation.snapshot())
    for number, count, kept in ((0, 0, 0), (1, 2, 1), (2, 30, 0), (0, 0, 0), (1, 2, 1)):
        simulation.restore(snapshots[number])
        assert (simulation.gradients[simulation.byzantine] == count).all()
        assert simulation.memory.read("first written later").tolist() == [kept, kept]
        play(simulation)
        assert (simulation.gradients[simulation.byzantine] == count + (10 if number == 2 else 1)).all()


def test_snapshots_know_their_attacks():
    one, other = (make(1, attack="none") for _ in range(2))
    one.reset([0], attack="ipm")
    other.reset([0], attack="zero")
    with pytest.raises(ValueError, match="attacks is none, zero, got none, ipm"):
        other.restore(one.snapshot())


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
        lambda snapshot: make_remembering(3).snapshot(),
        lambda snapshot: make_remembering(num_workers=4, num_byzantine=2, roles="static").snapshot(),
        lambda snapshot: make_remembering(batch_size=5).snapshot(),
        lambda snapshot: make_remembering(model="softmax").snapshot(),
        lambda snapshot: make_remembering(momentum=0.0).snapshot(),
        lambda snapshot: make_remembering(qv_size=3).snapshot(),
        lambda snapshot: make_remembering(secure_group_size=2).snapshot(),
    ],
)
def test_invalid_snapshots_change_nothing(spoil):
    simulation = make_remembering()
    spoilt = spoil(simulation.snapshot())
    play(simulation)
    state = state_of(simulation)
    with pytest.raises(ValueError, match=r"snapshot must be (what snapshot|of a simulation like)"):
        simulation.restore(spoilt)
    assert_same(simulation, state)
