"""Table 1 and figure 4 of the paper of FABA (Xia, Tao, Hao and Li 2019).

Paper: https://doi.org/10.24963/ijcai.2019/670       Results: baselines/reproductions/README.md

Usage: python baselines/reproductions/faba.py --mnist DATA_ROOT --cifar10 DATA_ROOT
       The same command goes on where it stopped. `byzgym report runs/faba/table-1` draws curves.

Nearly a third of the workers submit noise, uniform in (-0.25, 0.25). Table 1: LeNet on MNIST, 32 workers, 9
of them Byzantine, batches of 4. The paper does not give the learning rate, see LEARNING_RATE. Figure 4: 8
workers, 2 of them Byzantine, batches of 32, learning rate 0.01, momentum 0.9, weight decay 5e-4; the paper
plays 80 epochs of ResNet-18. The plain mean is played, too: where it survives, nothing needed a defence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import tyro
from rich.progress import Progress

from byzgym.experiments import Comparison, compare
from byzgym.experiments.engine import Processes
from byzgym.experiments.results import Results
from byzgym.experiments.statistics import counted_curves

PAPER = {
    "faba": (0.9536, 0.9736, 0.9725, 0.9702, 0.9649, 0.9632, 0.9551, 0.9536, 0.9552, 0.9529),
    "krum": (0.6814, 0.7306, 0.7633, 0.7684, 0.7811, 0.7553, 0.7896, 0.8035, 0.8063, 0.8112),
}
"""Table 1: test accuracy after epochs 1 to 10."""
LEARNING_RATE = 0.05
"""On MNIST. Of 0.01, 0.05 and 0.1 it comes nearest to FABA's first epoch in the paper, with seed 1000: 0.864,
0.958 and 0.970 against 0.954."""
MNIST_EPOCH, CIFAR10_EPOCH = 60_000 // (32 * 4), 50_000 // (8 * 32)
"""Rounds in which all workers together draw as many samples as there are."""


@dataclass
class Config:
    """Play the table and the figure whose data are given."""

    mnist: Path | None = None
    """Folder of torchvision's MNIST; without it table 1 is left out."""
    cifar10: Path | None = None
    """Folder of torchvision's CIFAR-10; without it figure 4 is left out."""
    out: Path = Path("runs/faba")
    """Folder for the runs of each part."""
    seeds: int = 3
    """Runs of each cell, with the seeds first_seed, first_seed + 1, ..."""
    first_seed: int = 0
    epochs: int = 10
    """Epochs on MNIST, as in the paper."""
    cifar10_model: str = "lenet"
    """The paper has resnet18, resnet34, resnet50 and vgg16, for which you want a GPU."""
    cifar10_epochs: int = 5
    """Epochs on CIFAR-10."""
    device: str = "cpu"
    """A torch device."""
    processes: int = 1
    """Processes that play side by side."""


def parts(config: Config) -> dict[str, Comparison]:
    """What is played, by the name of its folder."""
    base = Comparison(
        policies=("faba", "krum", "mean"),
        attacks=("uniform:low=-0.25,high=0.25",),
        seeds=config.seeds,
        first_seed=config.first_seed,
        device=config.device,
    )
    made = {}
    if config.mnist is not None:
        made["table-1"] = replace(
            base,
            task=f"mnist:root={config.mnist}",
            model="lenet",
            num_workers=32,
            num_byzantine=(9,),
            batch_size=4,
            learning_rate=LEARNING_RATE,
            rounds=config.epochs * MNIST_EPOCH,
            evaluate_every=MNIST_EPOCH,
        )
    if config.cifar10 is not None:
        made["figure-4"] = replace(
            base,
            task=f"cifar10:root={config.cifar10}",
            model=config.cifar10_model,
            num_workers=8,
            num_byzantine=(2,),
            batch_size=32,
            learning_rate=0.01,
            momentum=0.9,
            weight_decay=5e-4,
            rounds=config.cifar10_epochs * CIFAR10_EPOCH,
            evaluate_every=CIFAR10_EPOCH,
        )
        made["figure-4-calm"] = replace(made["figure-4"], policies=("mean",), attacks=("none",))
    return made


def by_epoch(results: Results) -> pd.DataFrame:
    """Test accuracy of each policy after each epoch, mean over seeds; a diverged run counts as chance."""
    curves = counted_curves(results.runs, results.curves)
    curves = curves[curves["round"] > 0]
    curves = curves.assign(epoch=curves["round"] // results.comparison.interval)
    return curves.pivot_table(index="epoch", columns="policy", values="accuracy")


def table_1(results: Results) -> tuple[pd.DataFrame, dict[str, bool]]:
    """Ours beside the paper's, and whether each claim holds."""
    ours = by_epoch(results)
    paper = pd.DataFrame(PAPER, index=pd.RangeIndex(1, 11, name="epoch")).add_suffix(" (paper)")
    table = ours.join(paper)
    gap = table["faba"] - table["krum"]
    claims = {
        "FABA, epochs 1 to 3: at most a point from the paper's": bool(
            (table["faba"] - table["faba (paper)"]).abs().head(3).le(0.01).all()
        ),
        "Krum is at least ten points below FABA after every epoch": bool(gap.ge(0.1).all()),
        "FABA ends at least a point below its best epoch": bool(
            ours["faba"].max() - ours["faba"].iloc[-1] >= 0.01
        ),
        "the mean without a defence ends at least a point below FABA": bool(
            ours["faba"].iloc[-1] - ours["mean"].iloc[-1] >= 0.01
        ),
    }
    return table, claims


def figure_4(attacked: Results, calm: Results) -> tuple[pd.DataFrame, dict[str, bool]]:
    """FABA, Krum and the mean beside the mean without an attack, and whether each claim holds."""
    table = by_epoch(attacked).join(by_epoch(calm)["mean"].rename("no attack"))
    last = table.iloc[-1]
    claims = {
        "FABA ends at most two points below training without an attack": bool(
            last["no attack"] - last["faba"] <= 0.02
        ),
        "FABA is above Krum after every epoch": bool((table["faba"] > table["krum"]).all()),
        "the mean without a defence ends at least a point below FABA": bool(
            last["faba"] - last["mean"] >= 0.01
        ),
    }
    return table, claims


def main(config: Config) -> None:
    """Play the parts, and print the tables and a line for each claim."""
    if not parts(config):
        raise SystemExit("there is nothing to play: give mnist, cifar10 or both")
    found = {}
    with Progress() as bars:
        for name, comparison in parts(config).items():
            bar = bars.add_task(name, total=len(comparison.policies) * comparison.rounds)
            found[name] = compare(
                comparison,
                config.out / name,
                progress=lambda _, rounds, bar=bar: bars.update(bar, advance=rounds),
                engine=Processes(config.processes),
            )
            bars.update(bar, completed=len(comparison.policies) * comparison.rounds)
    for name, results in found.items():
        for policy in results.runs.loc[results.runs["diverged"].astype(bool), "policy"].unique():
            print(f"{name}: a run of {policy} diverged and counts as chance")
    shown = {}
    if "table-1" in found:
        shown["Table 1, MNIST"] = table_1(found["table-1"])
    if "figure-4" in found:
        shown[f"Figure 4, {config.cifar10_model} on CIFAR-10"] = figure_4(
            found["figure-4"], found["figure-4-calm"]
        )
    for title, (table, claims) in shown.items():
        print(title)
        print((100 * table).round(1).to_string())
        for claim, holds in claims.items():
            print(f"{'reproduced' if holds else 'differs':<12}{claim}")


if __name__ == "__main__":
    main(tyro.cli(Config))
