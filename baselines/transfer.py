"""How far a policy carries: other attacks, partitions, QV samples, numbers of workers, tasks and models.

Usage: python baselines/transfer.py --policies set trust --mnist ROOT --yelp ROOT --cifar10 ROOT
Results: byzgym/agents/set/CARD.md

A cell is one attack, f and kind of roles in a setting. Its score is the mean final test accuracy over seeds,
divided by that of the benign-only oracle. A row gives the mean and the worst cell of a setting, the worst
single run, and how many runs were lost: ended below 0.85 of the oracle's accuracy on their seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from sklearn import datasets
from survival import TRAINED, UNSEEN

from byzgym import tasks
from byzgym.experiments import Comparison
from byzgym.experiments.play import play_batch
from byzgym.experiments.statistics import counted


def rings() -> tasks.Task:
    """Points on four rings in the plane: few features, and classes that no line divides."""
    generator = torch.Generator().manual_seed(3)
    y = torch.randint(0, 4, (3000,), generator=generator)
    radius = 1 + y + 0.15 * torch.randn(3000, generator=generator)
    angle = 2 * math.pi * torch.rand(3000, generator=generator)
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    return tasks.Task((x[:2400], y[:2400]), (x[2400:], y[2400:]), num_classes=4, model="mlp:32")


def small(x: np.ndarray, y: np.ndarray, model: str) -> tasks.Task:
    """A task of standardized features; a quarter of the samples is for testing."""
    x = (x - x.mean(0)) / x.std(0)
    order = np.random.default_rng(0).permutation(len(y))
    samples, labels = torch.from_numpy(x[order]).float(), torch.from_numpy(y[order])
    split = len(y) * 3 // 4
    train, test = (samples[:split], labels[:split]), (samples[split:], labels[split:])
    return tasks.Task(train, test, num_classes=int(y.max()) + 1, model=model)


tasks.register("rings", rings)
hastie_x, hastie_y = datasets.make_hastie_10_2(3000, random_state=0)
SMALL = {
    "iris": (*datasets.load_iris(return_X_y=True), "softmax"),
    "circles": (*datasets.make_circles(2000, noise=0.1, factor=0.5, random_state=0), "mlp:32"),
    "quantiles": (
        *datasets.make_gaussian_quantiles(n_samples=3000, n_features=10, n_classes=3, random_state=0),
        "mlp:64",
    ),
    "hastie": (hastie_x, (hastie_y > 0).astype(np.int64), "mlp:64"),
}
"""Small tasks of scikit-learn: inputs, labels and a model."""
for name, parts in SMALL.items():
    tasks.register(name, partial(small, *parts))


@dataclass
class Config:
    """Play the settings."""

    policies: tuple[str, ...] = ("set", "trust")
    """What is played beside the oracle."""
    seeds: int = 3
    """Runs of each cell, with the seeds first_seed, first_seed + 1, ..."""
    first_seed: int = 0
    mnist: Path | None = None
    """Folder of torchvision's MNIST; without it these settings are left out."""
    yelp: Path | None = None
    """Folder with yelp/yelp.csv; without it these settings are left out."""
    cifar10: Path | None = None
    """Folder of torchvision's CIFAR-10; without it this setting is left out."""
    only: tuple[str, ...] = ()
    """Names of settings; all where empty."""


def settings(config: Config) -> dict[str, list[Comparison]]:
    """The settings by name; each is one comparison or, with redrawn roles, two."""
    base = Comparison(
        attacks=TRAINED,
        num_byzantine=(3, 7, 9),
        rounds=150,
        seeds=config.seeds,
        first_seed=config.first_seed,
        batch_size=16,
        learning_rate=0.3,
        evaluate_every=150,
    )
    redrawn = replace(base, num_byzantine=(7,), roles="redrawn:period=5")
    calm = replace(base, attacks=("none",), num_byzantine=(0,), seeds=8)
    seven = replace(base, num_byzantine=(7,))
    made = {
        "attacks of the training": [base, redrawn],
        "other attacks": [replace(base, attacks=UNSEEN), replace(redrawn, attacks=UNSEEN)],
        "no attack": [calm],
        "no attack, Dirichlet(0.5)": [replace(calm, partition="dirichlet:alpha=0.5")],
        "no attack, Dirichlet(0.1)": [replace(calm, partition="dirichlet:alpha=0.1")],
        "f=7, Dirichlet(0.5)": [replace(seven, partition="dirichlet:alpha=0.5")],
        "f=9, Dirichlet(0.5)": [replace(base, num_byzantine=(9,), partition="dirichlet:alpha=0.5")],
        "f=7, Dirichlet(0.1)": [replace(seven, partition="dirichlet:alpha=0.1")],
        "QV noise of 0.5": [replace(base, qv_source="noise:std=0.5")],
        "QV rotated by 30 degrees": [replace(base, qv_source="rotation:degrees=30")],
        "n=25": [replace(base, attacks=TRAINED + UNSEEN, num_workers=25, num_byzantine=(12, 24))],
        "n=50": [replace(base, num_workers=50, num_byzantine=(45,))],
        "the environment's own settings, 300 rounds": [
            replace(base, rounds=300, evaluate_every=300, batch_size=None, learning_rate=None)
        ],
        "breast_cancer": [replace(base, task="breast_cancer", attacks=TRAINED + UNSEEN, learning_rate=None)],
    }
    for name in SMALL:
        made[name] = [replace(base, task=name, attacks=TRAINED + UNSEEN, batch_size=None, learning_rate=None)]
    on_rings = replace(base, task="rings", attacks=TRAINED + UNSEEN, num_byzantine=(3,), learning_rate=0.1)
    made["rings, f=3"] = [on_rings]
    made["rings, no attack"] = [replace(on_rings, attacks=("none",), num_byzantine=(0,), seeds=8)]
    if config.yelp is not None:
        yelp = replace(
            base,
            task=f"yelp:root={config.yelp}",
            attacks=TRAINED + UNSEEN,
            batch_size=None,
            learning_rate=None,
        )
        made["Yelp, f=3"] = [replace(yelp, num_byzantine=(3,))]
        made["Yelp, f=7"] = [replace(yelp, num_byzantine=(7,))]
        made["Yelp, no attack"] = [replace(yelp, attacks=("none",), num_byzantine=(0,))]
    if config.mnist is not None:
        mnist = replace(base, task=f"mnist:root={config.mnist}", learning_rate=0.1, num_byzantine=(7, 9))
        made["MNIST"] = [replace(mnist, attacks=TRAINED + UNSEEN, seeds=1)]
        made["MNIST, LeNet"] = [replace(mnist, model="lenet", num_byzantine=(7,), seeds=1)]
    if config.cifar10 is not None:
        lenet = replace(seven, task=f"cifar10:root={config.cifar10}", model="lenet", seeds=1, rounds=300)
        made["CIFAR-10, LeNet"] = [replace(lenet, evaluate_every=300, batch_size=32, learning_rate=0.1)]
    unknown = [name for name in config.only if name not in made]
    if unknown:
        needs = "those on MNIST, Yelp and CIFAR-10 need mnist, yelp and cifar10"
        raise SystemExit(f"only must name some of {list(made)}, got {unknown}; {needs}")
    return {name: made[name] for name in config.only or made}


def main(config: Config) -> None:
    """Play and print the settings one after the other."""
    chosen = settings(config)
    print(f"{'setting':<44}{'policy':<10}{'mean':>7}{'worst':>7}{'run':>7}{'lost':>12}  worst cells")
    for name, comparisons in chosen.items():
        frames = {policy: played(comparisons, policy) for policy in ("oracle", *config.policies)}
        best = frames.pop("oracle")
        for policy, own in frames.items():
            cells = own.groupby(level=["attack", "num_byzantine", "roles"]).mean()
            cells = (cells / best.groupby(level=["attack", "num_byzantine", "roles"]).mean()).sort_values()
            worst = [
                f"{score:.2f} {attack} f={f} {roles.split(':')[0]}"
                for (attack, f, roles), score in cells[:3].items()
            ]
            single = own / best
            lost = f"{(single < 0.85).sum()} of {len(single)}"
            numbers = f"{cells.mean():7.3f}{cells.iloc[0]:7.3f}{single.min():7.3f}{lost:>12}"
            print(f"{name:<44}{policy:<10}{numbers}  {'; '.join(worst)}", flush=True)


def played(comparisons: list[Comparison], policy: str) -> pd.Series:
    """The final accuracy of every run, by attack, f, roles and seed; a diverged one counts as chance."""
    rows = [row for one in comparisons for f in one.num_byzantine for row in play_batch(one, policy, f)[0]]
    return counted(pd.DataFrame(rows)).set_index(["attack", "num_byzantine", "roles", "seed"])["accuracy"]


if __name__ == "__main__":
    main(tyro.cli(Config))
