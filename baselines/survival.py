"""Who survives: every rule and agent under many attacks, for growing f. Results: baselines/README.md.

Usage: python baselines/survival.py --out runs/survival      again: goes on with what is not finished

Digits, 10 workers; f of them Byzantine for f in 0, 3, 5, 7, 9; roles static, or redrawn every 5 rounds so
that nobody stays honest. Rules are told the true f, or the largest that they accept. A cell is one attack, f
and kind of roles. Its score is the mean final test accuracy over seeds, divided by that of the benign-only
oracle. A run that diverged counts as chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro
from rich.progress import Progress

from byzgym import aggregation
from byzgym.experiments import Comparison, compare
from byzgym.experiments.engine import Processes, cores
from byzgym.experiments.reading import read_all
from byzgym.experiments.statistics import counted
from byzgym.experiments.store import Store

TRAINED = ("random", "gaussian", "sign_flip", "omniscient", "ipm", "alie", "label_flip", "zero", "mixture")
"""Attacks on which set was trained."""
UNSEEN = ("min_max", "min_sum", "rop", "replay", "mimic", "fang_krum", "fang_trimmed_mean", "sybils")
"""Attacks on which it was not."""
LEARNED = ("gaa", "gaa:start=trust", "gaa:start=set", "set", "ensemble:members=krum+gaa+set")
CONTROLS = ("uniform", "random", "fixed", "oracle")


@dataclass
class Config:
    """Play the table."""

    out: Path = Path("runs/survival")
    """Folder for the runs and table.csv."""
    seeds: int = 3
    """Runs of each cell, with the seeds 0, 1, ..."""
    rounds: int = 150
    """Rounds of a run."""
    policies: tuple[str, ...] = (*aggregation.names(), *LEARNED, *CONTROLS)
    """Who is played; the oracle is needed. Other runs in the folder stay in the table."""


def main(config: Config) -> None:
    """Play the parts and print the table."""
    policies = config.policies
    if "oracle" not in policies:
        raise SystemExit(f"policies must have the oracle, which scores are divided by, got {policies}")
    common = {"policies": policies, "seeds": config.seeds, "rounds": config.rounds, "batch_size": 16}
    common |= {"learning_rate": 0.3, "evaluate_every": config.rounds}
    under_attack = {**common, "attacks": TRAINED + UNSEEN, "num_byzantine": (3, 5, 7, 9)}
    parts = {
        "calm": Comparison(**common, attacks="none", num_byzantine=0),
        "static": Comparison(**under_attack),
        "redrawn": Comparison(**under_attack, roles="redrawn:period=5"),
    }
    engine = Processes(cores())
    with Progress() as bars:
        for name, comparison in parts.items():
            total = len(policies) * len(comparison.num_byzantine) * comparison.rounds
            bar = bars.add_task(name, total=total)
            advance: Callable[[str, int], None] = lambda _, rounds, bar=bar: bars.update(bar, advance=rounds)  # noqa: E731
            compare(comparison, config.out, progress=advance, engine=engine)
            bars.update(bar, completed=total)
    with Store(config.out) as store:
        table = scores(counted(pd.concat([results.runs for results in read_all(store)])))
    table.to_csv(config.out / "table.csv")
    print(table.round(2).to_string())


def scores(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each policy, the worst cell first; each score is a part of the oracle's accuracy."""
    keys = ["attack", "num_byzantine", "roles"]
    oracle = runs[runs["policy"] == "oracle"].groupby([*keys, "seed"])["accuracy"].mean().rename("best")
    runs = runs.join(oracle, on=[*keys, "seed"])
    runs["single"] = runs["accuracy"] / runs["best"]
    cells = runs.groupby(["policy", *keys])[["accuracy", "best", "single"]].agg(
        {"accuracy": "mean", "best": "mean", "single": "min"}
    )
    cells["score"] = cells["accuracy"] / cells["best"]
    rows = {}
    for policy, own in cells.groupby(level="policy"):
        own = own.droplevel("policy").reset_index()
        worst = own.loc[own["score"].idxmin()]
        row = {
            "worst cell": worst["score"],
            "which": f"{worst['attack']}, f={worst['num_byzantine']}, {worst['roles'].split(':')[0]}",
            "worst run": own["single"].min(),
            "mean": own["score"].mean(),
            "no attack": own.loc[own["attack"] == "none", "score"].mean(),
        }
        for f in (3, 5, 7, 9):
            row[f"f={f}"] = own.loc[own["num_byzantine"] == f, "score"].mean()
        row["redrawn"] = own.loc[own["roles"] != "static", "score"].mean()
        row["unseen"] = own.loc[own["attack"].isin(UNSEEN), "score"].mean()
        rows[policy] = row
    return pd.DataFrame.from_dict(rows, orient="index").sort_values("worst cell", ascending=False)


if __name__ == "__main__":
    main(tyro.cli(Config))
