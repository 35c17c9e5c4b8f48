"""What an attacker who knows the policy does to it, against the effort of the search.

Usage: python baselines/adaptive.py --out runs/adaptive
Results: docs/adaptive.md

A cell is one policy, f and kind of roles: digits, 10 workers. The attack `adaptive` searches it once. The
best points after 1, 2, 5, ... evaluations then play with other seeds than those of the search; a score is
the mean final test accuracy divided by that of the benign-only oracle under the same attack.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from matplotlib.figure import Figure

from byzgym import specs
from byzgym.adaptive import search
from byzgym.envs.rendering import default_style
from byzgym.experiments import Comparison
from byzgym.experiments.play import play_batch
from byzgym.experiments.statistics import counted
from byzgym.files import write_whole

CELLS = ((3, "static"), (7, "static"), (9, "static"), (7, "redrawn:period=5"))
"""f and roles."""
EFFORTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Numbers of evaluations after which the best point is played."""
GOAL = 0.8
"""A score that a policy should keep."""


@dataclass
class Config:
    """Search and play the cells."""

    policies: tuple[str, ...] = ("set", "trust")
    """The victims."""
    evaluations: int = 200
    """Points that the attacker tries in each cell."""
    seeds: int = 10
    """Runs of each point that is played, with the seeds 0, 1, ..."""
    rounds: int = 150
    """Rounds of a run, in the search and after it."""
    seed: int = 0
    """Of the searches."""
    out: Path = Path("runs/adaptive")
    """Folder for adaptive.csv, adaptive.md and adaptive.png."""


def main(config: Config) -> None:
    """Play the cells and write files after each of them."""
    config.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for policy in config.policies:
        for f, roles in CELLS:
            started = time.perf_counter()
            rows += cell(config, policy, f, roles)
            table = pd.DataFrame(rows)
            with write_whole(config.out / "adaptive.csv") as path:
                table.to_csv(path, index=False)
            seconds = time.perf_counter() - started
            print(f"{policy}, f={f}, {roles}: {rows[-1]['score']:.2f} in {seconds:.0f} s", flush=True)
    text = markdown(table)
    with write_whole(config.out / "adaptive.md") as path:
        path.write_text(text, encoding="utf-8")
    with write_whole(config.out / "adaptive.png") as path, default_style():
        draw(table).savefig(path, dpi=160, facecolor="white", bbox_inches="tight", pad_inches=0.12)
    print("\n" + text)


def cell(config: Config, policy: str, num_byzantine: int, roles: str) -> list[dict[str, Any]]:
    """A row for each number of evaluations."""
    setting: dict[str, Any] = {"task": "digits", "num_workers": 10, "roles": roles, "rounds": config.rounds}
    setting |= {"batch_size": 16, "learning_rate": 0.3}
    result = search(
        policy, num_byzantine=num_byzantine, evaluations=config.evaluations, seed=config.seed, **setting
    )
    efforts = sorted({min(effort, config.evaluations) for effort in EFFORTS})
    found = {k: specs.label({"name": "mixture", "point": result.best(k)}) for k in efforts}
    attacks = tuple(dict.fromkeys(found.values()))
    comparison = Comparison(
        attacks=attacks,
        num_byzantine=(num_byzantine,),
        seeds=config.seeds,
        evaluate_every=config.rounds,
        **setting,
    )
    accuracy = {}
    for name in (policy, "oracle"):
        runs = counted(pd.DataFrame(play_batch(comparison, name, num_byzantine)[0]))
        accuracy[name] = runs.groupby(["attack", "seed"])["accuracy"].mean()
    rows = []
    for k, attack in found.items():
        own, best = accuracy[policy][attack], accuracy["oracle"][attack]
        row = {"policy": policy, "num_byzantine": num_byzantine, "roles": roles, "evaluations": k}
        row |= {"score": own.mean() / best.mean(), "worst_run": (own / best).min(), "accuracy": own.mean()}
        row |= {"damage_in_search": float(result.damages[:k].max()), "attack": attack}
        rows.append(row)
    return rows


def markdown(table: pd.DataFrame) -> str:
    """The scores after some numbers of evaluations, a row for each cell."""
    efforts = sorted(table["evaluations"].unique())
    lines = [
        f"| policy | f | roles | {' | '.join(str(k) for k in efforts)} | worst run |",
        f"| --- | ---: | --- | {'---: | ' * len(efforts)}---: |",
    ]
    for (policy, f, roles), own in table.groupby(["policy", "num_byzantine", "roles"], sort=False):
        scores = own.set_index("evaluations")["score"]
        numbers = " | ".join(f"{scores[k]:.2f}" for k in efforts)
        lines.append(f"| {policy} | {f} | {roles} | {numbers} | {own['worst_run'].iloc[-1]:.2f} |")
    return "\n".join(lines) + "\n"


def draw(table: pd.DataFrame) -> Figure:
    """A panel for each f and kind of roles, a line for each policy."""
    panels = list(table.groupby(["num_byzantine", "roles"], sort=False))
    figure = Figure(figsize=(1 + 2.6 * len(panels), 2.8))
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, ((f, roles), cells) in zip(grid, panels, strict=True):
        for policy, own in cells.groupby("policy", sort=False):
            axes.plot(own["evaluations"], own["score"], marker="o", markersize=3.5, label=policy)
        axes.axhline(GOAL, color="#999999", linewidth=0.8, linestyle=":")
        axes.set(xscale="log", xlabel="evaluations", ylim=(0, max(1.08, table["score"].max() + 0.03)))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_title(f"f={f}, {roles}", loc="left", fontsize=11)
        axes.grid(color="#dddddd", linewidth=0.8)
    grid[0].set_ylabel("accuracy / oracle's")
    grid[0].legend(loc="lower left", frameon=False)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
