"""A round of runs that have diverged beside a round of healthy ones.

    python benchmarks/diverged.py
    python benchmarks/diverged.py --policies mean krum median trust

The plain mean diverges under strong attacks. Then gradients are no longer finite, the server rejects them in
every round, and a comparison plays on. Such rounds must not take longer than others. The setting is that of
`byzgym compare`: 20 runs side by side on the digits, 7 of 10 workers Byzantine, one thread. All runs have the
same attack, or (mixed) they have the four of the default comparison and those under sign_flip have diverged.
Parameters are multiplied by 1e30 to make a run diverge. All are timed in turns in one process. Compare
ratios: times are those of your machine.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import tyro
from _timing import medians, print_versions, verdict
from rich.console import Console
from rich.table import Table

from byzgym import agents
from byzgym.experiments.config import DEFAULT_ATTACKS
from byzgym.simulation import Simulation

MOST = 1.1
"""Times a healthy round; what is above 1 is left to the noise of the machine."""
RUNS = 20
ATTACKS = {"none": ["none"], "gaussian": ["gaussian"], "sign_flip": ["sign_flip"], "mixed": DEFAULT_ATTACKS}


def main(policies: tuple[str, ...] = ("mean", "krum"), repeats: int = 15, threads: int = 1) -> None:
    """Time rounds of healthy and of diverged runs.

    Args:
        policies: Who aggregates.
        repeats: Turns of every contestant; the medians are shown.
        threads: For torch.
    """
    torch.set_num_threads(threads)
    console = Console()
    print_versions(console)
    table = Table("policy", "attack", "healthy ms", "diverged ms", "ratio", "target", "reached")
    for policy in policies:
        for name, attacks in ATTACKS.items():
            calls = {state: rounds(policy, attacks, state == "diverged") for state in ("healthy", "diverged")}
            seconds = medians(calls, repeats, dict.fromkeys(calls, 16))
            ratio = seconds["diverged"] / seconds["healthy"]
            times = [f"{1e3 * seconds[state]:.2f}" for state in calls]
            table.add_row(policy, name, *times, f"{ratio:.2f}", f"{MOST}", verdict(ratio <= MOST))
    console.print(table)


def rounds(policy: str, attacks: list[str] | tuple[str, ...], diverged: bool) -> Callable[[], None]:
    """A call that plays a round, of runs under each of the attacks."""
    each = [{"attack": attack} for attack in attacks for _ in range(RUNS // len(attacks))]
    # Steps are tiny, so that runs stay as they are: healthy ones would diverge while they are timed.
    simulation = Simulation.make(RUNS, seed=0, per_environment=each, num_byzantine=7, learning_rate=1e-9)
    agent = agents.build(policy, simulation)
    if diverged:
        which = attacks[0] if len(attacks) == 1 else "sign_flip"
        chosen = [number for number, one in enumerate(each) if one["attack"] == which]
        simulation.server.theta[chosen] *= 1e30
        simulation.apply(torch.zeros_like(simulation.server.theta))

    def call() -> None:
        simulation.apply(agent.decide(simulation.view))

    return call


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
