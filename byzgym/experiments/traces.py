"""How the credits of single workers went, for figures: runs of the first seed, thinned to what is visible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from byzgym.experiments.results import RUN, Results
from byzgym.experiments.store import Store

MOST_WORKERS = 40
"""Rows of a figure; of more workers so many are chosen evenly."""
MOST_BINS = 150
"""Columns of a figure."""


@dataclass(frozen=True)
class Trace:
    """The credits of one run, in bins of successive rounds.

    Attributes:
        policy: Who gave them.
        attack: By whom they were earned.
        seed: Of the run.
        rounds: The first round of each bin, from 1, and after the last one a round more, [bins + 1].
        workers: Their numbers, the most often honest ones first, [n].
        credits: Means over bins, [bins, n]; NaN where a worker has not taken part.
        byzantine: Whether a worker attacked in most rounds of the bin in which it took part, [bins, n].
    """

    policy: str
    attack: str
    seed: int
    rounds: np.ndarray
    workers: np.ndarray
    credits: np.ndarray
    byzantine: np.ndarray


def read(results: Results, num_byzantine: int, bins: int = MOST_BINS) -> list[Trace]:
    """A trace for each policy and attack, of the first seed that is finished.

    Policies without credits have none, such as the oracle under a fault in transmission, nor have results
    that were not read from a folder.
    """
    if results.folder is None:
        return []
    runs = results.runs[results.runs["num_byzantine"] == num_byzantine].merge(results.expected, on=list(RUN))
    runs = runs.sort_values("seed", kind="stable").drop_duplicates(["policy", "attack"])
    first = {
        (policy, attack): (int(seed), str(key))
        for policy, attack, seed, key in runs[["policy", "attack", "seed", "key"]].itertuples(index=False)
    }
    traces = []
    with Store(results.folder) as store:
        for policy, attack in product(results.played(num_byzantine), results.comparison.attacks):
            seed, key = first.get((policy, attack), (0, ""))
            held = store.credits(key)
            if held and not np.isnan(held["credits"]).all():
                traces.append(Trace(policy, attack, seed, *thinned(held, bins)))
    return traces


def thinned(
    held: Mapping[str, np.ndarray], bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rounds, workers, credits and roles of a `Trace`.

    Args:
        held: credits and byzantine, [rounds, n], and workers, [rounds, n], where not everybody takes part, as
            `Store.credits` gives them.
        bins: At most so many.
    """
    credits, byzantine = held["credits"].astype(float), held["byzantine"]
    rounds, rows = credits.shape
    everybody = np.broadcast_to(np.arange(rows), credits.shape)
    workers = held.get("workers", everybody)
    known, who = np.unique(workers, return_inverse=True)
    who = who.reshape(workers.shape)
    took_part = np.bincount(who.ravel())
    badness = np.bincount(who.ravel(), byzantine.ravel()) / took_part
    order = np.lexsort((known, badness))
    chosen = order[
        np.unique(np.linspace(0, len(order) - 1, min(len(order), MOST_WORKERS)).round().astype(int))
    ]
    column = np.full(len(known), -1)
    column[chosen] = np.arange(len(chosen))

    width = -(-rounds // bins)  # rounds of a bin
    count = -(-rounds // width)
    cell = (np.arange(rounds) // width)[:, None] * len(chosen) + column[who]
    shown = column[who] >= 0

    def summed(values: np.ndarray) -> np.ndarray:
        total = np.bincount(cell[shown], values[shown], minlength=count * len(chosen))
        return total.reshape(count, len(chosen))

    seen = summed(np.ones_like(credits))
    with np.errstate(invalid="ignore"):
        means, bad = summed(credits) / seen, summed(byzantine.astype(float)) / seen
    edges = np.append(np.arange(count) * width, rounds) + 1
    return edges, known[chosen], means, bad > 0.5
