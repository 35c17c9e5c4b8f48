"""Agents: what a round of GAA and of the set aggregator costs, and how well GAA learns online.

    python benchmarks/agents.py
    python benchmarks/agents.py --learning
    python benchmarks/agents.py --learning --attacks sign_flip ipm --seeds 10

Without `--learning`: a full round (gradients, attack, the agent's decision and its own learning, update) of
GAA beside one of the mean, and of the set aggregator beside one of krum. All play in turns in one process, in
the setting of `round.py` (MLP 784-128-128-10 with d=118k, n=20, f=6, ipm, B=32).

With it: one run per attack and seed on digits, 7 of 10 workers Byzantine, GAA learning while it governs the
run. Final test accuracy beside that of the benign-only oracle, which is told who is honest (a reference),
and of uniform credits, all from the same seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import tyro
from _timing import (
    NUM_BYZANTINE,
    NUM_WORKERS,
    medians,
    mnist_shaped_simulation,
    print_versions,
    verdict,
)
from rich.console import Console
from rich.table import Column, Table

from byzgym import agents
from byzgym.simulation import Simulation

# What a round of an agent may take, in units of a round of what stands beside it.
MOST = {("gaa", "mean"): 3.0, ("set", "krum"): 4.0}
LEAST_OF_ORACLE = 0.95
PER_TURN = 16  # batches are drawn for 16 rounds at a time


def main(
    learning: bool = False,
    attacks: tuple[str, ...] = ("sign_flip", "random"),
    seeds: int = 3,
    rounds: int = 600,
    repeats: int = 15,
    threads: int = 2,
) -> None:
    """Time agents, or judge GAA.

    Args:
        learning: Judge what GAA learns; else time a round of it and of the set aggregator.
        attacks: With ``learning``: one group of runs for each.
        seeds: With ``learning``: runs per attack, with the seeds 0, 1, ...
        rounds: With ``learning``: length of a run.
        repeats: Turns of each when timing; the medians are shown.
        threads: For torch.
    """
    torch.set_num_threads(threads)
    console = Console()
    print_versions(console)
    console.print(learning_table(attacks, seeds, rounds) if learning else round_table(repeats))


def round_table(repeats: int) -> Table:
    simulations = {name: mnist_shaped_simulation() for pair in MOST for name in pair}
    seconds = medians(
        {name: rounds_of(name, simulation) for name, simulation in simulations.items()},
        repeats,
        dict.fromkeys(simulations, PER_TURN),
    )
    if diverged := [name for name, simulation in simulations.items() if simulation.diverged.any()]:
        raise RuntimeError(f"the runs of {diverged} diverged, so their rounds were not all full ones")
    d = next(iter(simulations.values())).num_parameters
    title = f"A round: n={NUM_WORKERS}, f={NUM_BYZANTINE}, d={d}"
    table = Table("agent", "ms", "beside", "ms", "ratio", "target", "reached", title=title)
    for (agent, beside), most in MOST.items():
        ratio = seconds[agent] / seconds[beside]
        table.add_row(
            agent,
            f"{1e3 * seconds[agent]:.2f}",
            beside,
            f"{1e3 * seconds[beside]:.2f}",
            f"{ratio:.2f}",
            f"<= {most:g}",
            verdict(ratio <= most),
        )
    return table


def rounds_of(name: str, simulation: Simulation) -> Callable[[], None]:
    agent = agents.build(name, simulation)
    return lambda: play(simulation, agent)


def learning_table(attacks: Sequence[str], seeds: int, rounds: int) -> Table:
    accuracies = {name: accuracy(name, attacks, seeds, rounds) for name in ("gaa", "oracle", "uniform")}
    table = Table(
        Column("attack", min_width=9), "seed", "GAA", "oracle*", "uniform", "ratio", "target", "reached"
    )
    table.title = f"Accuracy on digits after {rounds} rounds, 7 of 10 workers Byzantine"
    table.caption = "* a reference: it is told who is honest"
    for run, (attack, seed) in enumerate(runs(attacks, seeds)):
        gaa, oracle, uniform = (accuracies[name][run] for name in ("gaa", "oracle", "uniform"))
        ratio = gaa / oracle
        table.add_row(
            attack,
            str(seed),
            f"{gaa:.3f}",
            f"{oracle:.3f}",
            f"{uniform:.3f}",
            f"{ratio:.3f}",
            f">= {LEAST_OF_ORACLE}",
            verdict(ratio >= LEAST_OF_ORACLE),
        )
    return table


def accuracy(name: str, attacks: Sequence[str], seeds: int, rounds: int) -> list[float]:
    """Final test accuracy of one agent in every run; the runs are the environments of one simulation."""
    chosen = runs(attacks, seeds)
    simulation = Simulation.make(
        num_envs=len(chosen),
        task="digits",
        num_workers=10,
        num_byzantine=7,
        rounds=rounds,
        per_environment=[{"attack": attack} for attack, _ in chosen],
    )
    # `make` numbers the seeds through; here every attack meets the same ones, drawn as the environment does.
    simulation.reset([int(np.random.default_rng(seed).integers(2**63)) for _, seed in chosen])
    agent = agents.build(name, simulation)
    for _ in range(rounds):
        play(simulation, agent)
    values: list[float] = simulation.evaluate()["accuracy"].tolist()
    return values


def runs(attacks: Sequence[str], seeds: int) -> list[tuple[str, int]]:
    return [(attack, seed) for attack in attacks for seed in range(seeds)]


def play(simulation: Simulation, agent: agents.Agent) -> None:
    """One round."""
    simulation.apply(agent.decide(simulation.view))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
