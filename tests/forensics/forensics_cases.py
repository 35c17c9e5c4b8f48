"""Runs with known answers, made by hand or in a simulation."""

import numpy as np

from byzgym import agents
from byzgym.forensics import Log, Trace
from byzgym.simulation import Simulation


def trusting(byzantine, **others):
    """The trace of a policy that gives all who are honest in a round the same credit, from roles [T, n]."""
    honest = ~np.asarray(byzantine)
    return Trace(credits=honest / np.maximum(honest.sum(1, keepdims=True), 1), **others)


def roles(rounds, **attacks):
    """Roles [rounds, 6], where e.g. ``w2=(10, 20)`` makes worker 2 Byzantine in these rounds."""
    byzantine = np.zeros((rounds, 6), dtype=bool)
    for name, when in attacks.items():
        byzantine[when if isinstance(when, np.ndarray) else slice(*when), int(name[1:])] = True
    return byzantine


def played(policy, rounds=100, seed=0, num_envs=1, **arguments):
    """A log of simulated runs, and who was Byzantine, [E, T, n]."""
    given = {"num_byzantine": 3, "attack": "sign_flip", "rounds": rounds, **arguments}
    simulation = Simulation.make(num_envs, seed, **given)
    agent, log, truth = agents.build(policy, simulation), Log(), []
    for _ in range(rounds):
        decision = agent.decide(simulation.view)
        log.add(simulation.view, decision)
        truth.append(simulation.byzantine_rows.numpy().copy())
        simulation.apply(decision)
    return log, np.stack(truth, 1)
