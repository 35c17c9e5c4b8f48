"""Reward samples: held out for the reward, apart from QV samples, unseen by anybody else."""

import pytest
import torch
from simulation_cases import assert_same, make, play, state_of

from byzgym import tasks


def numbered(size=40):
    """A task whose inputs say which set they are from, and their number there."""

    def samples(start, count):
        x = (start + torch.arange(count)).float()[:, None]
        return x, torch.arange(count) % 2

    return tasks.Task(
        train=samples(0, 100), test=samples(1000, 50), held_out=samples(2000, size), num_classes=2
    )


def first(task, qv_size, generator):
    x, y = task.held_out
    return x[:qv_size], y[:qv_size]


def coarse(task, qv_size, generator):
    """Held-out samples that are no longer equal to the originals."""
    x, y = tasks.quasi_validation.make("held_out")(task, qv_size, generator)
    return x + 0.25, y


@pytest.mark.parametrize("source", ["held_out", first, coarse, "noise:std=0.1"])
def test_no_sample_is_in_both_sets(source):
    simulation = make(task=numbered(), qv_source=source, reward_size=25, learning_rate=1e-6)
    for seed in range(10):
        simulation.reset([seed, seed + 100])
        for env in range(2):
            reward = simulation.reward_set.samples[env].tolist()
            assert len(set(reward)) == 25
            taken = (simulation.quasi_validation.x[env, :, 0] - 2000).round().long().tolist()
            assert not set(reward) & set(taken)
            assert set(reward) | set(taken) <= set(range(40))


def test_new_qv_samples_are_not_in_the_reward_set():
    simulation = make(task=numbered(), reward_size=25, learning_rate=1e-6, qv_period=1)
    seen = set()
    for _ in range(10):
        play(simulation)
        taken = set((simulation.quasi_validation.x[0, :, 0] - 2000).round().long().tolist())
        assert not set(simulation.reward_set.samples[0].tolist()) & taken
        assert torch.equal(simulation.reward_loss_of_step(), simulation.reward_loss())
        seen |= taken
    assert len(seen) == 15


def test_all_others_and_what_remains():
    def size(**arguments):
        return make(task=numbered(), **arguments).setup.reward_size

    assert size() is size(reward="qv") is None
    assert size(reward="held_out") == 30
    assert size(reward="held_out", qv_size=3) == 37
    assert size(reward="held_out", qv_source="train", qv_size=60) == 40  # takes none of them
    assert size(reward_size=30) == size(reward="held_out", reward_size=30) == 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward_size": 31}, "reward_size must be an integer from 1 to 30, got 31"),
        ({"reward_size": 0}, "reward_size must be an integer from 1 to 30, got 0"),
        ({"reward_size": True}, "reward_size must be an integer from 1 to 30, got True"),
        ({"reward_size": 41, "qv_source": "train"}, "reward_size must be an integer from 1 to 40, got 41"),
        ({"reward": "test"}, "reward must be one of 'qv', 'held_out', got 'test'"),
        ({"reward": 5}, "reward must be one of 'qv', 'held_out', got 5"),
        ({"reward": "qv", "reward_size": 5}, "got reward='qv' and reward_size=5"),
        ({"reward": "held_out", "qv_size": 40}, "all 40 held-out samples are for the QV set"),
        ({"reward_size": 5, "qv_size": 40}, "all 40 held-out samples are for the QV set"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(task=numbered(), **arguments)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_loss_by_hand(chunk, monkeypatch):
    simulation = make(task="digits", model="softmax", reward_size=20)
    monkeypatch.setattr(
        simulation.engine, "samples_at_once", lambda num_envs, sample_size: chunk, raising=False
    )
    x, y = simulation.setup.task.held_out
    for env in range(2):
        chosen = simulation.reward_set.samples[env]
        weight, bias = simulation.view.theta[env].split([640, 10])
        logits = x[chosen].flatten(1) @ weight.view(10, 64).T + bias
        expected = torch.nn.functional.cross_entropy(logits, y[chosen])
        torch.testing.assert_close(simulation.reward_loss()[env], expected)


def test_loss_is_of_the_present_round():
    simulation = make(reward_size=4)
    snapshot, first = simulation.snapshot(), simulation.reward_loss()
    assert simulation.reward_loss() is first
    play(simulation)
    second = simulation.reward_loss()
    assert not torch.equal(first, second)
    simulation.restore(snapshot)
    assert torch.equal(simulation.reward_loss(), first)
    simulation.reset([5], [1])
    assert simulation.reward_loss()[0] == first[0]
    assert simulation.reward_loss()[1] != first[1]


def test_without_a_set_it_is_the_qv_loss():
    simulation = make()
    assert simulation.reward_set is None
    assert torch.equal(simulation.reward_loss(), simulation.qv_loss())


def test_losses_are_finite():
    simulation = make(reward_size=4)
    assert torch.equal(simulation.reward_set.loss(simulation.view.theta * torch.nan), torch.full((2,), 1e30))


def test_an_environment_equals_a_simulation_of_one():
    both = make(2, seed=3, reward_size=6)
    for env in range(2):
        alone = make(1, seed=3 + env, reward_size=6)
        assert torch.equal(alone.reward_set.samples[0], both.reward_set.samples[env])
        assert_same(both, alone, [env])
        torch.testing.assert_close(both.reward_loss()[[env]], alone.reward_loss())


def test_a_partial_reset_draws_anew_only_there():
    simulation = make(reward_size=6)
    before, theta = simulation.reward_set.samples.clone(), simulation.view.theta.clone()
    simulation.reset([99], [1])
    assert torch.equal(simulation.reward_set.samples[0], before[0])
    assert torch.equal(simulation.view.theta[0], theta[0])
    assert not torch.equal(simulation.reward_set.samples[1], before[1])


def test_snapshots_have_the_samples():
    simulation = make(reward_size=6)
    snapshot, state, samples = (
        simulation.snapshot(),
        state_of(simulation),
        simulation.reward_set.samples.clone(),
    )
    simulation.reset([8, 9])
    assert not torch.equal(simulation.reward_set.samples, samples)
    simulation.restore(snapshot)
    assert torch.equal(simulation.reward_set.samples, samples)
    assert_same(simulation, state)
    with pytest.raises(ValueError, match=r"reward_set.samples is None, got torch.int64 of shape \(2, 6\)"):
        make().restore(snapshot)
