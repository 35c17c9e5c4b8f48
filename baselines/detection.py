"""How well `byzgym.forensics` finds Byzantine workers: AUC, precision and recall of the calibrated threshold.

python baselines/detection.py          # about a minute; prints the tables of docs/forensics.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
import tyro

from byzgym import agents
from byzgym.ambient import episode_seed
from byzgym.experiments.config import DEFAULT_ATTACKS
from byzgym.forensics import Analysis, Evaluation, Log, analyse, evaluate
from byzgym.simulation import Simulation


@dataclass(frozen=True)
class Detection:
    """Policies under attacks, and without any."""

    policies: tuple[str, ...] = ("gaa", "krum")
    attacks: tuple[str, ...] = DEFAULT_ATTACKS
    num_byzantine: tuple[int, ...] = (3, 7)
    seeds: tuple[int, ...] = (10, 11, 12)
    quiet_seeds: int = 30
    """Runs without an attack, with the seeds from 10 on."""
    rounds: int = 200
    task: str = "digits"
    partition: str = "iid"


def play(
    config: Detection, policy: str, num_byzantine: int, attacks: Sequence[str], seeds: Sequence[int]
) -> list[tuple[str, Analysis, Evaluation]]:
    """The attack, the analysis and its evaluation, of every attack and seed."""
    members = [(attack, seed) for attack in attacks for seed in seeds]
    simulation = Simulation.make(
        len(members),
        seed=0,
        per_environment=[{"attack": attack} for attack, _ in members],
        attack=attacks[0],
        num_byzantine=num_byzantine,
        rounds=config.rounds,
        task=config.task,
        partition=config.partition,
    )
    agent, log, truth = agents.build(policy, simulation), Log(), []
    simulation.reset([episode_seed(np.random.default_rng(seed)) for _, seed in members])
    agent.reset()
    for _ in range(config.rounds):
        decision = agent.decide(simulation.view)
        log.add(simulation.view, decision)
        truth.append(simulation.byzantine_rows.numpy().copy())
        simulation.apply(decision)
    found = [analyse(log.trace(run)) for run in range(len(members))]
    byzantine = np.stack(truth, 1)  # [E, T, n]
    return [
        (attack, analysis, evaluate(analysis, byzantine[run]))
        for run, ((attack, _), analysis) in enumerate(zip(members, found, strict=True))
    ]


def main(config: Detection) -> None:
    """Print the table of attacks, and how many runs without one accuse somebody."""
    print(f"| policy | f | {' | '.join(config.attacks)} |")
    print(f"| --- | ---: | {' | '.join('---:' for _ in config.attacks)} |")
    for policy in config.policies:
        for f in config.num_byzantine:
            runs = play(config, policy, f, config.attacks, config.seeds)
            cells = []
            for attack in config.attacks:
                here = [(a, e) for name, a, e in runs if name == attack]
                accused = [e for a, e in here if not a.threshold.nobody]
                text = f"{mean(e.auc for _, e in here):.2f}"
                if accused:
                    text += (
                        f" / {mean(e.precision for e in accused):.2f} / {mean(e.recall for e in accused):.2f}"
                    )
                silent = len(here) - len(accused)
                notes = {"nobody": silent, "deceived": sum(a.deceived for a, _ in here)}
                noted = ", ".join(f"{name}: {count}" for name, count in notes.items() if count)
                cells.append(f"{text} ({noted})" if noted else text)
            print(f"| {policy} | {f} | {' | '.join(cells)} |")
    print()
    for policy in config.policies:
        quiet = play(config, policy, 0, ["none"], range(10, 10 + config.quiet_seeds))
        print(f"{policy}, no attack: {sum(bool(a.accused) for _, a, _ in quiet)} of {len(quiet)} runs accuse")


if __name__ == "__main__":
    main(tyro.cli(Detection, description=__doc__))
