"""Figures 2 to 8 of Xie, Koyejo and Gupta 2018, "Generalized Byzantine-tolerant SGD".

Paper: https://arxiv.org/abs/1802.10116       Results: baselines/reproductions/README.md

Usage: python baselines/reproductions/xie.py --mnist DATA_ROOT --cifar10 DATA_ROOT
       The same command goes on where it stopped. `byzgym report runs/xie/figures-2-to-4` draws curves.

The paper draws curves and prints no numbers, so that a claim is a sentence; a check says what counts as true.
20 workers. On MNIST all is as in the paper (MLP 784-128-128-10, learning rate 0.1, batches of 32, 500
rounds) but for the number of seeds. On CIFAR-10 the paper's network gets 100 rounds with batches of 8 in
place of 4000 with 128, and so the learning rate 0.05 with momentum 0.9 in place of 5e-4. (On seed 1000,
without failures and with 4 workers, this learns in 100 rounds; 0.1 does not.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
import tyro
from rich.progress import Progress

from byzgym import aggregation
from byzgym.experiments import Comparison, compare
from byzgym.experiments.engine import Processes
from byzgym.experiments.results import Results
from byzgym.experiments.statistics import counted, counted_curves

RULES = ("mean", "medoid", "krum", "multi_krum", "geometric_median", "median", "mean_around_median")
BIT_FLIP, GAMBLER = "bit_flip:victims=all", "gambler"
CHANCE = 0.1
"""The accuracy of guessing one of ten classes."""


@dataclass
class Config:
    """Play the figures whose data are given."""

    mnist: Path | None = None
    """Folder of torchvision's MNIST; without it figures 2 to 6 and 8 are left out."""
    cifar10: Path | None = None
    """Folder of torchvision's CIFAR-10; without it figure 7 is left out."""
    out: Path = Path("runs/xie")
    """Folder for the runs of each part."""
    seeds: int = 3
    """Runs of each cell on MNIST, with the seeds first_seed, first_seed + 1, ...; the paper has 10."""
    first_seed: int = 0
    rounds: int = 500
    """Rounds on MNIST."""
    cifar10_rounds: int = 100
    """Rounds on CIFAR-10, one seed."""
    processes: int = 1
    """Processes that play side by side."""


class MedoidInFloat32(aggregation.Weighting):
    """The medoid as one would write it down: sums of distances overflow, and of equal ones the first wins."""

    def _credits(self, gradients: torch.Tensor) -> torch.Tensor:  # [..., n, d] -> [..., n]
        distances = [(gradients - row).square().sum(-1).sqrt().sum(-1) for row in gradients.unbind(-2)]
        return torch.nn.functional.one_hot(torch.stack(distances, -1).argmin(-1), len(distances)).float()


def parts(config: Config) -> dict[str, Comparison]:
    """What is played, by the name of its folder."""
    common = Comparison(num_workers=20, policies=RULES, first_seed=config.first_seed)
    made = {}
    if config.mnist is not None:
        base = replace(common, task=f"mnist:root={config.mnist}", model="xie_mlp", batch_size=32)
        base = replace(base, learning_rate=0.1, rounds=config.rounds, seeds=config.seeds)
        first = "schedule:changes=[[0, [0, 1, 2, 3, 4, 5]]]"
        # num_byzantine is what rules are told; under "none" and under faults nobody is Byzantine.
        made["figures-2-to-4"] = replace(base, attacks=("none", "gaussian", "omniscient"), num_byzantine=(6,))
        made["overflow"] = replace(
            base, policies=("medoid_in_float32",), attacks=("omniscient",), num_byzantine=(6,), roles=first
        )
        made["figures-5-and-6"] = replace(base, attacks=(BIT_FLIP, GAMBLER), num_byzantine=(8,))
        made["figure-8"] = replace(
            base, policies=("krum", "multi_krum"), attacks=(BIT_FLIP,), num_byzantine=(0, 2, 4, 6)
        )
    if config.cifar10 is not None:
        base = replace(common, task=f"cifar10:root={config.cifar10}", model="xie_cnn", batch_size=8, seeds=1)
        base = replace(base, learning_rate=0.05, momentum=0.9, rounds=config.cifar10_rounds)
        made["figure-7"] = replace(base, attacks=(GAMBLER,), num_byzantine=(8,))
        made["figure-7-calm"] = replace(base, policies=("mean",), attacks=("none",), num_byzantine=(8,))
    return made


@dataclass(frozen=True)
class Seen:
    """What a claim is checked against."""

    cells: pd.DataFrame
    """A row for each policy under the claim's attack: final accuracy, mean of its curve, gain."""
    calm: pd.Series
    """The row of the mean without failures."""


Check = Callable[[Seen, str], bool]


def same(seen: Seen, policy: str) -> bool:
    """At most one point below the mean without failures."""
    return bool(seen.calm["final"] - seen.cells.loc[policy, "final"] <= 0.01)


def near(seen: Seen, policy: str) -> bool:
    """At least nine tenths of what the mean without failures gains over chance."""
    return bool(seen.cells.loc[policy, "gain"] >= 0.9)


def fails(seen: Seen, policy: str) -> bool:
    """Less than that."""
    return not near(seen, policy)


def slower(seen: Seen, policy: str) -> bool:
    """Near, but with a lower mean of the curve."""
    return near(seen, policy) and bool(seen.cells.loc[policy, "curve"] < seen.calm["curve"])


def slowest(seen: Seen, policy: str) -> bool:
    """Near, with one of the two lowest means of the curve of those that are near."""
    able = seen.cells.loc[seen.cells["gain"] >= 0.9, "curve"].sort_values()
    return policy in able.index[:2]


def best(seen: Seen, policy: str) -> bool:
    """The highest final accuracy under the attack."""
    return bool(seen.cells["final"].idxmax() == policy)


# Figure, attack, policies, what the paper says, check.
CLAIMS: tuple[tuple[str, str, tuple[str, ...], str, Check], ...] = (
    ("2", "none", ("multi_krum", "geometric_median", "mean_around_median"), "just as averaging", same),
    ("2", "none", ("median",), "slightly slower", slower),
    ("2", "none", ("medoid", "krum"), "slowest, gaps tiny", slowest),
    ("3", "gaussian", ("mean",), "not resilient", fails),
    ("3", "gaussian", ("geometric_median", "mean_around_median"), "as without failures", same),
    ("3", "gaussian", ("multi_krum", "median"), "slightly slower", slower),
    ("3", "gaussian", ("medoid", "krum"), "worst, gaps tiny", slowest),
    ("4", "omniscient", ("mean_around_median",), "as without failures", same),
    ("4", "omniscient", ("multi_krum",), "a small gap", near),
    ("4", "omniscient", ("krum",), "slower, same accuracy", slower),
    ("4", "omniscient", ("geometric_median", "median"), "bad solutions", fails),
    ("4", "omniscient", ("mean", "medoid"), "not tolerant", fails),
    ("4", "omniscient", ("medoid_in_float32",), "not tolerant", fails),
    ("5", BIT_FLIP, ("median", "mean_around_median"), "resilient", near),
    ("5", BIT_FLIP, ("mean", "medoid", "krum", "multi_krum", "geometric_median"), "not resilient", fails),
    ("6", GAMBLER, ("median", "mean_around_median"), "small gap", near),
    ("6", GAMBLER, ("median",), "slightly better than MeaMed", best),
    ("6", GAMBLER, ("mean", "medoid", "krum", "multi_krum", "geometric_median"), "does not survive", fails),
    ("7", GAMBLER, ("median", "mean_around_median"), "survives", near),
    ("7", GAMBLER, ("mean", "medoid", "krum", "multi_krum", "geometric_median"), "does not survive", fails),
    ("8", BIT_FLIP, ("krum", "multi_krum"), "bad solutions whatever q", fails),
)
PARTS = {"2": "figures-2-to-4", "3": "figures-2-to-4", "4": "figures-2-to-4", "5": "figures-5-and-6"}
PARTS |= {"6": "figures-5-and-6", "7": "figure-7", "8": "figure-8"}


def cells(results: Results) -> pd.DataFrame:
    """Final accuracy, mean of the curve and diverged runs for each attack and policy, of the best q.

    The means are over seeds. A run that diverged counts as chance, in its curve, too.
    """
    keys = ["attack", "policy", "num_byzantine"]
    curves = counted_curves(results.runs, results.curves)
    found = counted(results.runs).groupby(keys).agg(final=("accuracy", "mean"), diverged=("diverged", "sum"))
    found["curve"] = curves[curves["round"] > 0].groupby(keys)["accuracy"].mean()
    return found.sort_values("final", kind="stable").groupby(["attack", "policy"]).last()


def verdicts(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row for each claim whose part has been played; `diverged` is how many of its runs did."""
    rows = []
    for figure, attack, policies, says, check in CLAIMS:
        part = PARTS[figure]
        if part not in found:
            continue
        calm = found["figure-7-calm" if figure == "7" else "figures-2-to-4"].loc[("none", "mean")]
        for policy in policies:
            own = found["overflow" if policy == "medoid_in_float32" else part].loc[attack]
            own = own.assign(gain=(own["final"] - CHANCE) / (calm["final"] - CHANCE))
            rows.append(
                {
                    "figure": figure,
                    "attack": attack.partition(":")[0],
                    "policy": policy,
                    "paper": says,
                    "final": round(100 * own.loc[policy, "final"], 1),
                    "curve": round(100 * own.loc[policy, "curve"], 1),
                    "diverged": own.loc[policy, "diverged"],
                    "calm": round(100 * calm["final"], 1),
                    "verdict": "reproduced" if check(Seen(own, calm), policy) else "differs",
                }
            )
    return pd.DataFrame(rows)


def main(config: Config) -> None:
    """Play the parts, and print a line for each claim."""
    if not parts(config):
        raise SystemExit("there is nothing to play: give mnist, cifar10 or both")
    aggregation.register("medoid_in_float32", MedoidInFloat32)
    found = {}
    with Progress() as bars:
        for name, comparison in parts(config).items():
            total = len(comparison.policies) * len(comparison.num_byzantine) * comparison.rounds
            bar = bars.add_task(name, total=total)
            results = compare(
                comparison,
                config.out / name,
                progress=lambda _, rounds, bar=bar: bars.update(bar, advance=rounds),
                engine=Processes(config.processes),
            )
            bars.update(bar, completed=total)
            found[name] = cells(results)
    table = verdicts(found)
    config.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(config.out / "claims.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main(tyro.cli(Config))
