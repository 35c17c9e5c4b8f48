"""A small simulation for tests, and comparisons of two."""

import torch

from byzgym.simulation import Simulation

TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "batch_size": 4, "rounds": 20}
VIEW = (
    *("gradients", "theta", "round", "learning_rate", "rejected"),
    *("previous_update", "previous_credits", "qv_value"),
)
EVERYTHING = {
    "attack": ["gaussian", "sign_flip", "ipm", "alie", "random", "label_flip"],
    "num_byzantine": (0, 5),
    "roles": {"name": "randomized", "period": 3, "fixed_honest": False},
    "partition": "dirichlet",
    "momentum": 0.5,
    "worker_momentum": 0.3,
}
"""Arguments with which much is drawn and much is remembered."""


def make(num_envs=2, seed=0, **arguments):
    return Simulation.make(num_envs, seed, **{**TINY, **arguments})


def uniform_update(simulation):
    return simulation.gradients.mean(1)


def play(*simulations, rounds=1, envs=None):
    for _ in range(rounds):
        for simulation in simulations:
            simulation.apply(1e-3 * uniform_update(simulation), envs)


def state_of(simulation):
    """Copies of what the server and an evaluation see in this round."""
    state = {name: getattr(simulation.view, name).clone() for name in VIEW}
    names = torch.tensor([hash(name) for name in simulation.attack_names])
    return {
        **state,
        "attacks": names,
        "byzantine": simulation.byzantine.clone(),
        "diverged": simulation.diverged.clone(),
    }


def assert_same(one, other, env=slice(None)):
    """Equal simulations or states; the environment ``env`` of the first is all of the other."""
    one, other = (each if isinstance(each, dict) else state_of(each) for each in (one, other))
    for name, values in other.items():
        # A batch sums in another order than an environment alone.
        tolerance = {"rtol": 0, "atol": 0} if env == slice(None) else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(one[name][env], values, msg=lambda text, n=name: f"{n}: {text}", **tolerance)
