"""A small simulation for tests."""

from byzgym.simulation import Simulation

TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "batch_size": 4, "rounds": 20}


def make(num_envs=2, seed=0, **arguments):
    return Simulation.make(num_envs, seed, **{**TINY, **arguments})


def uniform_update(simulation):
    return simulation.gradients.mean(1)
