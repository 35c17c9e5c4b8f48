"""What the parts of the set aggregator buy: short trainings from nothing, each without one part.

Usage: python agents/set_ablations.py --out runs/ablations

Each variant is trained for the same number of generations with the same seeds and then plays cells beside the
oracle. Variants that are in results.csv already are not trained again.
"""

from __future__ import annotations

import csv
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import set as training  # agents/set.py
import torch
import tyro
from torch import Tensor

from byzgym import agents
from byzgym.agents.set.features import COLUMNS, EVIDENCE, Features
from byzgym.agents.set.network import Result, SetNetwork
from byzgym.simulation import Simulation

FIELDS = ("variant", "iid", "iid worst", "skewed", "skewed worst", "nobody attacks", "worst run", "minutes")
SEEDS, ROUNDS = 4, 120
ATTACKS = ("label_flip", "sign_flip", "alie", "min_sum", "mixture")
CELLS = {
    "iid": [
        {"attack": attack, "num_byzantine": f, "roles": roles}
        for attack in ATTACKS
        for f, roles in ((9, "static"), (7, "redrawn:period=5"))
    ],
    "skewed": [
        {"attack": attack, "num_byzantine": 7, "partition": "dirichlet:alpha=0.5"} for attack in ATTACKS
    ],
    "nobody attacks": [
        {"attack": "none", "num_byzantine": 0, "partition": partition}
        for partition in ("iid", "dirichlet:alpha=0.1")
    ],
}


@dataclass
class Config:
    """Train the set aggregator without its parts."""

    out: Path
    """Folder for results.csv."""
    generations: int = 40
    """Generations of each training, of four groups each."""
    variants: tuple[str, ...] = ()
    """Which variants; all, if none are named."""
    seed: int = 0
    """Of the trainings."""


def of_momenta(name: str) -> bool:
    """Whether a feature has to do with momenta of submissions."""
    return name.startswith(("cosine fast", "cosine slow", "t slow", "consistency", "rank slow")) or (
        name.endswith("alike slow") or name.startswith(("passed fast", "passed slow"))
    )


def of_single_samples(name: str) -> bool:
    """Whether a feature needs the gradients of single QV samples."""
    return name.startswith("t ") or " t " in name or "unit" in name


def of_running_means(name: str) -> bool:
    """Whether a feature is a running mean."""
    return name.startswith(("mean long", "relative long", "long"))


class Ablated(SetNetwork):
    """A set network that does not see some features, or lacks a part."""

    def __init__(
        self,
        hides: Callable[[str], bool] = lambda name: False,
        *,
        evidence: bool = True,
        momenta: bool = True,
        memory: bool = True,
        attention: bool = True,
        gate: bool = True,
    ) -> None:
        super().__init__()
        self.seen = torch.tensor([not hides(name) for name in COLUMNS])
        self.seen_evidence = torch.tensor([evidence and not hides(name) for name in EVIDENCE])
        self.with_momenta, self.with_memory = momenta, memory
        if not attention:
            self.blocks = torch.nn.ModuleList()
        if not gate:
            self.gate.bias.data.fill_(100)  # open, and so far from closing that it has no slope

    def forward(self, features: Features, hidden: Tensor) -> Result:
        """See `SetNetwork.forward`."""
        pairs = features.pairs.clone()
        if not self.with_momenta:
            pairs[:, 1:] = 0
        features = dataclasses.replace(
            features,
            workers=features.workers * self.seen,
            evidence=features.evidence * self.seen_evidence,
            pairs=pairs,
        )
        return super().forward(features, hidden if self.with_memory else torch.zeros_like(hidden))


VARIANTS: dict[str, Callable[[], SetNetwork]] = {
    "complete": SetNetwork,
    "without label contrasts": lambda: Ablated(lambda name: "contrast" in name),
    "without single QV samples": lambda: Ablated(of_single_samples),
    "without momenta of submissions": lambda: Ablated(of_momenta, momenta=False),
    "without accepted updates": lambda: Ablated(lambda name: "update" in name),
    "without running means": lambda: Ablated(of_running_means),
    "without relative running means": lambda: Ablated(lambda name: name.startswith("relative")),
    "without likeness and passing on": lambda: Ablated(lambda name: "alike" in name or "passed" in name),
    "without ranks": lambda: Ablated(lambda name: name.startswith("rank")),
    "without lengths": lambda: Ablated(lambda name: "length over" in name or name == "rank length"),
    "without its own credits": lambda: Ablated(lambda name: name.endswith(" credits")),
    "without added evidence": lambda: Ablated(evidence=False),
    "without memory (GRU)": lambda: Ablated(memory=False),
    "without attention": lambda: Ablated(attention=False),
    "without the gate": lambda: Ablated(gate=False),
    "without the bank": SetNetwork,
}


def trained(name: str, config: Config) -> SetNetwork:
    """A variant, trained for a while in this process."""
    settings = training.Config(
        out=config.out,
        generations=config.generations,
        groups=4,
        processes=1,
        seed=config.seed,
        averaging=0.004,  # there are fewer updates than in the real training
        bank=0 if name == "without the bank" else 60,
    )
    learner = training.Learner(settings, VARIANTS[name])
    for generation in range(config.generations):
        _, found = learner.play(generation)
        learner.keep(found)
    return learner.mean


def accuracy(cell: dict[str, object], network: SetNetwork | None) -> Tensor:
    """Final test accuracy [SEEDS] with the network, or with the oracle."""
    settings = {"batch_size": 16, "learning_rate": 0.3, "rounds": ROUNDS} | cell
    simulation = Simulation.make(num_envs=SEEDS, seed=5000, **settings)  # type: ignore[arg-type]
    policy = agents.build("oracle" if network is None else "set:pretrained=False", simulation)
    if network is not None:
        assert isinstance(policy, agents.SetAggregator)
        policy.network = network
    for _ in range(ROUNDS):
        simulation.apply(policy.decide(simulation.view))
    return simulation.evaluate()["accuracy"]


def judged(network: SetNetwork, oracle: dict[str, list[Tensor]]) -> dict[str, float]:
    """Ratios of accuracy to the oracle's: means and worst cells of each kind, and the worst run of all."""
    row: dict[str, float] = {}
    worst_run = float("inf")
    for kind, cells in CELLS.items():
        ratios = []
        for cell, best in zip(cells, oracle[kind], strict=True):
            reached = accuracy(cell, network)
            ratios.append(float(reached.mean() / best.mean()))
            worst_run = min(worst_run, float((reached / best).min()))
        row[kind] = sum(ratios) / len(ratios)
        if kind != "nobody attacks":
            row[f"{kind} worst"] = min(ratios)
    return row | {"worst run": worst_run}


def main(config: Config) -> None:
    torch.set_num_threads(1)
    unknown = [name for name in config.variants if name not in VARIANTS]
    if unknown:
        raise SystemExit(f"variants must be some of {list(VARIANTS)}, got {unknown}")
    config.out.mkdir(parents=True, exist_ok=True)
    results = config.out / "results.csv"
    done = set()
    if results.exists():
        with results.open() as file:
            done = {row["variant"] for row in csv.DictReader(file)}
    oracle = {kind: [accuracy(cell, None) for cell in cells] for kind, cells in CELLS.items()}
    for name in config.variants or VARIANTS:
        if name in done:
            continue
        began = time.perf_counter()
        network = trained(name, config)
        minutes = (time.perf_counter() - began) / 60
        row: dict[str, object] = {"variant": name} | {
            field: round(value, 3) for field, value in judged(network, oracle).items()
        }
        with results.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row | {"minutes": round(minutes, 1)})
        print(row, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
