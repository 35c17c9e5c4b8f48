"""ByzFL's own benchmark grid: accuracy under the worst attack, f x heterogeneity; byzgym's policies beside.

The grid is the default configuration of ByzFL 0.0.11 (https://github.com/LPD-EPFL/byzfl, paper
https://arxiv.org/abs/2505.24802). The claims are about NNM (https://arxiv.org/abs/2302.01772).
Usage: python baselines/reproductions/byzfl.py --root DATA_ROOT --out runs/byzfl      again: goes on
Results: baselines/reproductions/README.md

As in ByzFL: MNIST, 10 honest workers and f Byzantine ones, "gamma similarity", batches of 25, learning rate
0.1, momentum 0.9 at the workers. A cell is the worst over attacks of the best test accuracy on a curve, the
mean over seeds of 4 evaluations. Reduced: f = 2 and 4, its model logreg_mnist (here softmax) in place of
cnn_mnist, fewer rounds and seeds, shorter searches, no weight decay. The optimised attacks see a rule; for
set, trust and GAA, which look at data, they are shown the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import tyro
from rich.progress import Progress
from torch import Tensor

from byzgym.experiments import Comparison, compare
from byzgym.tasks import partitions

HONEST = 10
NUMBERS = (2, 4)
"""f; ByzFL has 1 and 3, too."""
GAMMAS = (1.0, 0.66, 0.33, 0.0)
"""The share of the data that is dealt out at random; the rest is sorted by label."""
RULES = ("rfa:iterations=3,smoothing=0.1,start=zero", "trimmed_mean")
"""ByzFL's GeometricMedian, by its definition, and TrMean."""
PIPELINE = "static_clipping+nnm"
"""ByzFL's default; below, its two parts are compared with no pre-aggregator, too."""
RIVALS = ("mean", "set", "trust", "gaa", "oracle")
ATTACKS = ("ipm:epsilon=1.0", "ipm:optimize=True,evaluations=8", "alie:optimize=True,evaluations=8")
"""SignFlipping (of the honest mean), Optimal_InnerProductManipulation and Optimal_ALittleIsEnough of ByzFL,
which tries 20 factors in a round."""
NOISE = 0.5
"""Points of accuracy within which two cells count as equal."""


class GammaSimilarity:
    """ByzFL's gamma_similarity_niid for the honest workers 0 to 9; each Byzantine one gets a single sample.

    Attacks of this grid need no data, and ByzFL's Byzantine clients have none.
    """

    def __init__(self, gamma: float = 1.0) -> None:
        self.gamma = gamma

    def __call__(self, labels: Tensor, num_workers: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Partition, see `byzgym.tasks.partitions`."""
        order = torch.randperm(len(labels), generator=generator)
        last, order = order[HONEST - num_workers :], order[: len(order) + HONEST - num_workers]
        cut = int(self.gamma * len(order))
        skewed = order[cut:][labels[order[cut:]].argsort(stable=True)]
        halves = zip(order[:cut].tensor_split(HONEST), skewed.tensor_split(HONEST), strict=True)
        shares = [*map(torch.cat, halves), *last[:, None]]
        lengths = torch.tensor([len(share) for share in shares])
        columns = torch.arange(int(lengths.max()))
        return torch.stack([share[columns % len(share)] for share in shares]), lengths


partitions.register("gamma_similarity", GammaSimilarity)


@dataclass
class Config:
    """Play the grid, draw it and judge the claims."""

    root: Path = Path("data")
    """Folder of torchvision's MNIST."""
    out: Path = Path("runs/byzfl")
    """Folder for the runs."""
    rounds: int = 100
    """Rounds; ByzFL has 800."""
    seeds: int = 1
    """Runs of each cell, with the seeds first_seed, first_seed + 1, ...; ByzFL has 3."""
    first_seed: int = 0
    """Of them."""
    task: str | None = None
    """Another task than MNIST."""


def settings(config: Config) -> Iterator[tuple[int, float, Comparison]]:
    """f, gamma and what is played there."""
    policies = [f"{pre}{rule}" for rule in RULES for pre in ("", "nnm+", f"{PIPELINE}+")]
    for f in NUMBERS:
        last = list(range(HONEST, HONEST + f))
        for gamma in GAMMAS:
            yield (
                f,
                gamma,
                Comparison(
                    task=config.task or f"mnist:root={config.root}",
                    model="softmax",
                    policies=(*policies, *RIVALS),
                    attacks=ATTACKS,
                    num_workers=HONEST + f,
                    num_byzantine=f,
                    roles={"name": "schedule", "changes": [[0, last]]},
                    partition=f"gamma_similarity:gamma={gamma}",
                    batch_size=25,
                    learning_rate=0.1,
                    worker_momentum=0.9,
                    rounds=config.rounds,
                    evaluate_every=max(1, config.rounds // 4),
                    seeds=config.seeds,
                    first_seed=config.first_seed,
                ),
            )


def play(config: Config) -> pd.DataFrame:
    """The cells: worst case in %, by policy, f and gamma."""
    made = list(settings(config))
    cells = []
    with Progress() as bars:
        total = sum(len(one.policies) * one.rounds for _, _, one in made)
        bar = bars.add_task("ByzFL's grid", total=total)
        advance: Callable[[str, int], None] = lambda _, rounds: bars.update(bar, advance=rounds)  # noqa: E731
        for f, gamma, comparison in made:
            results = compare(comparison, config.out, progress=advance)
            asked = pd.DataFrame(comparison.runs(), columns=["policy", "num_byzantine", "attack", "seed"])
            if missing := len(asked) - len(asked.merge(results.runs)):  # the store may hold others, too
                print(f"f={f}, gamma={gamma}: {missing} of {len(asked)} runs failed")
            curves = asked.merge(results.curves)
            means = curves.groupby(["policy", "attack", "round"])["accuracy"].mean()
            worst = 100 * means.groupby(level=["policy", "attack"]).max().groupby(level="policy").min()
            cells += [{"policy": p, "f": f, "gamma": gamma, "worst": value} for p, value in worst.items()]
    table = pd.DataFrame(cells).pivot(index="policy", columns=["f", "gamma"], values="worst")
    return table.reindex(made[0][2].policies)


def claims(table: pd.DataFrame) -> Iterator[tuple[str, str, str, bool]]:
    """Claim, ByzFL's or the paper's words, ours, and whether they agree."""
    skewed = table.loc[:, table.columns.get_level_values("gamma") < 0.5]
    for rule in RULES:
        gain = skewed.loc[f"nnm+{rule}"] - skewed.loc[rule]
        shown = f"{gain.mean():+.1f} points, {(gain >= -NOISE).sum()} of {len(gain)} cells no worse"
        yield f"nnm+{rule} against {rule}, gamma < 0.5", "boosts any rule", shown, gain.mean() > NOISE
    by_gamma = table.loc[[f"{PIPELINE}+{rule}" for rule in RULES]].max().unstack("gamma")[list(GAMMAS)]
    ends = by_gamma.mean()
    shown = " ".join(f"{value:.1f}" for value in ends)
    falls = bool((ends.diff().dropna() <= NOISE).all())
    yield f"{PIPELINE}+rule: less the more skewed (gamma {GAMMAS})", "a gradient", shown, falls
    ends = by_gamma.mean(axis=1)
    shown = " ".join(f"{value:.1f}" for value in ends)
    yield "the same: less the larger f", "a gradient", shown, bool((ends.diff().dropna() <= NOISE).all())
    lead = by_gamma.stack().min() - table.loc["mean"].min()
    yield "its worst cell against that of the mean", "robust", f"{lead:+.1f} points", lead > NOISE


def main(config: Config) -> None:
    """Play, and print the map and a row for each claim."""
    table = play(config)
    table.to_csv(config.out / "worst.csv")
    head = " | ".join(f"{f}, {gamma}" for f, gamma in table.columns)
    print(f"Accuracy in % under the worst attack, at f, gamma\n\n| policy | {head} | least |")
    print("| --- |" + " ---: |" * (len(table.columns) + 1))
    for policy, row in table.iterrows():
        print(f"| {policy} | {' | '.join(f'{value:.0f}' for value in row)} | {row.min():.1f} |")
    print("\n| claim | ByzFL | ours | |\n| --- | --- | --- | --- |")
    for claim, theirs, shown, agree in claims(table):
        print(f"| {claim} | {theirs} | {shown} | {'reproduced' if agree else '**differs**'} |")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
