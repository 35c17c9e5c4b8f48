"""Small simulations for tests, a way to play them, and comparisons."""

import torch

from byzgym import aggregation, attacks
from byzgym.simulation import Simulation

TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "batch_size": 4, "rounds": 20}
VIEW = (
    *("gradients", "theta", "round", "learning_rate", "rejected"),
    *("previous_update", "previous_credits", "qv_value"),
)


def make(num_envs=2, seed=0, **arguments):
    return Simulation.make(num_envs, seed, **{**TINY, **arguments})


def make_remembering(num_envs=2, seed=0, **arguments):
    """A simulation in which much is drawn and much is remembered."""
    everything = {
        "attack": ["gaussian", Replay(), "ipm", "label_flip"],
        "num_byzantine": (1, 5),
        "roles": alternating,
        "partition": "dirichlet",
        "learning_rate": 1e-4,
        "momentum": 0.5,
        "worker_momentum": 0.3,
    }
    return make(num_envs, seed, **{**everything, **arguments})


class Replay(attacks.Attack):
    """Sends what it has seen before."""

    def corrupt(self, gradients, byzantine, context):
        last = context.memory.read("last", *gradients.shape[1:])
        context.memory.write("last", gradients + last / 2)
        return last


def alternating(assigned, current, context):
    """Everybody assigned attacks in two of three rounds of its own count, somebody by chance."""
    count = context.memory.read("count", dtype=torch.int64)
    context.memory.write("count", count + 1)
    return assigned & ((count % 3 > 0)[:, None] | (context.uniform(6) < 0.2))


class Slow(aggregation.ServerRule):
    """Moves its credits slowly from none to equal ones."""

    linear, needs = True, frozenset({"memory"})

    def _decide(self, view):
        credits = view.memory.read("slow", view.num_workers) / 2 + 0.5 / view.num_workers
        view.memory.write("slow", credits)
        return aggregation.Decision.from_credits(credits, view)


def uniform_update(simulation):
    return simulation.gradients.mean(1)


def play(*simulations, rounds=1, envs=None):
    """Play rounds with a rule that has a memory."""
    for _ in range(rounds):
        for simulation in simulations:
            playing = list(range(simulation.num_envs)) if envs is None else envs
            view = simulation.view
            update, credits = torch.zeros_like(view.theta), torch.zeros_like(view.previous_credits)
            part = Slow().decide(view.of(torch.tensor(playing)))
            update[playing], credits[playing] = part.update, part.credits
            simulation.apply(aggregation.Decision(update, credits), envs and torch.tensor(envs))


def state_of(simulation):
    """Copies of what the server and an evaluation see in this round."""
    state = {name: getattr(simulation.view, name) for name in VIEW}
    state |= {name: getattr(simulation, name) for name in ("byzantine", "diverged", "initial_loss")}
    state["attacks"] = torch.tensor([hash(name) for name in simulation.attack_names])
    return {name: values.clone() for name, values in state.items()}


def assert_same(one, other, env=slice(None)):
    """Equal simulations or states; the environment ``env`` of the first is all of the other."""
    one, other = (each if isinstance(each, dict) else state_of(each) for each in (one, other))
    # A batch sums in another order than an environment alone.
    rtol, atol = (0, 0) if env == slice(None) else (1e-4, 1e-5)
    for name, values in other.items():
        torch.testing.assert_close(one[name][env], values, rtol=rtol, atol=atol, msg=name)
