"""What attackers draw who know where QV samples come from: others than the server's, whatever is kept."""

import pytest
import torch
from simulation_cases import assert_same, make, play, state_of

from byzgym import tasks
from byzgym.simulation.samples import Samples

LEAK = "leaked_qv:leak=distribution"


def numbered(size=40):
    """A task whose held-out inputs are 0, 1, ... as often as they go into the number of samples twice."""
    x = torch.arange(100.0)[:, None]
    held_out = (torch.arange(size) // 2).float()[:, None], torch.arange(size) % 2
    return tasks.Task((x, x[:, 0].long() % 2), (x, x[:, 0].long() % 2), 2, held_out=held_out)


def first(task, qv_size, generator):
    x, y = task.held_out
    return x[:qv_size], y[:qv_size]


def pool_of(simulation, env):
    return simulation.samples._pool(env).tolist()


def pool_by_loop(simulation, env):
    """The numbers of the held-out samples that are neither known nor for the reward, one by one."""
    known = [tuple(one.flatten().tolist()) for one in simulation.quasi_validation.x[env]]
    reward = [] if simulation.reward_set is None else simulation.reward_set.samples[env].tolist()
    inputs = enumerate(simulation.setup.task.held_out[0])
    return [i for i, x in inputs if i not in reward and tuple(x.flatten().tolist()) not in known]


@pytest.fixture
def made(monkeypatch):
    """The environments whose pools were computed, in this order."""
    environments, new_pool = [], Samples._new_pool

    def counting(self, env):
        environments.append(env)
        return new_pool(self, env)

    monkeypatch.setattr(Samples, "_new_pool", counting)
    return environments


def test_a_pool_by_hand():
    simulation = make(1, task=numbered(12), qv_source=first, qv_size=3, attack=LEAK)
    assert simulation.quasi_validation.x.flatten().tolist() == [0, 0, 1]
    # The other 1, which is number 3, is known too; what is left is enough for a set of three.
    assert pool_of(simulation, 0) == [4, 5, 6, 7, 8, 9, 10, 11]


def test_few_samples_are_repeated():
    simulation = make(1, task=numbered(12), qv_source=first, qv_size=9, attack=LEAK)
    assert pool_of(simulation, 0) == [10, 11] * 5


def test_without_others_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match=r"no samples beside the 11 of the QV set.* a smaller qv_size or re"):
        make(1, task=numbered(12), qv_source=first, qv_size=11, attack=LEAK)


def test_a_pool_is_kept_until_there_are_other_samples(made):
    simulation = make(2, task=numbered(), attack=LEAK, learning_rate=1e-6)
    assert made == [0, 1]
    play(simulation, rounds=5)
    assert made == [0, 1]
    simulation.reset([7], [1])
    play(simulation, rounds=3)
    assert made == [0, 1, 1]


def test_a_new_qv_set_renews_the_pool(made):
    simulation = make(2, task=numbered(), qv_size=3, qv_period=2, attack=LEAK, learning_rate=1e-6)
    play(simulation, rounds=2)
    pools = [pool_of(simulation, env) for env in range(2)]
    play(simulation, rounds=2)
    assert made == [0, 1] * 2  # the samples drawn after round 4 are not known yet
    for env in range(2):
        assert pool_of(simulation, env) != pools[env]


def test_a_new_reward_set_renews_the_pool():
    def fixed(task, qv_size, generator):  # the QV set of all episodes
        return torch.zeros(qv_size, 1), torch.zeros(qv_size, dtype=torch.int64)

    simulation = make(1, task=numbered(), qv_source=fixed, reward_size=10, attack=LEAK)
    pools = set()
    for seed in range(3):
        simulation.reset([seed])
        assert pool_of(simulation, 0) == pool_by_loop(simulation, 0)
        pools.add(tuple(pool_of(simulation, 0)))
    assert len(pools) == 3


@pytest.mark.parametrize("source", ["held_out", "train", "noise:std=0.1"])
@pytest.mark.parametrize("reward_size", [None, 7])
def test_pools_are_those_of_a_loop(source, reward_size):
    simulation = make(
        *(2, 3),
        **{"task": numbered(), "qv_source": source, "qv_size": 4, "qv_period": 3},
        **{"reward_size": reward_size, "attack": LEAK, "learning_rate": 1e-6},
    )
    snapshot = simulation.snapshot()
    for round in range(12):
        for env in range(2):
            assert pool_of(simulation, env) == pool_by_loop(simulation, env)
        play(simulation, envs=None if round % 2 else [1])
        if round == 5:
            simulation.reset([round], [0])
        if round == 8:
            simulation.restore(snapshot)


@pytest.mark.parametrize("reward_size", [None, 12])
def test_what_is_drawn_does_not_depend_on_what_is_kept(reward_size, monkeypatch):
    def states():
        simulation = make(2, task="digits", attack=LEAK, qv_period=3, reward_size=reward_size)
        for round in range(8):
            play(simulation)
            if round == 4:
                simulation.reset([9], [1])
            yield state_of(simulation)

    kept = list(states())
    monkeypatch.setattr(Samples, "_pool", Samples._new_pool)
    for one, other in zip(kept, states(), strict=True):
        assert_same(one, other)
