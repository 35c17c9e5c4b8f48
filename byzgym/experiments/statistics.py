"""Means, spreads and paired differences of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

LEVEL = 0.95
"""Coverage of the intervals."""


@dataclass(frozen=True)
class Summary:
    """Several seeds of one policy under one attack.

    Attributes:
        mean: Mean accuracy, 0 to 1.
        std: Standard deviation over seeds (with n - 1); NaN for a single seed.
        count: Number of seeds.
        diverged: How many of the runs have diverged.
        byzantine_credit: Mean credit on Byzantine submissions; NaN without credits.
        detection_auc: Mean detection AUC; NaN where undefined.
    """

    mean: float
    std: float
    count: int
    diverged: int
    byzantine_credit: float
    detection_auc: float


@dataclass(frozen=True)
class Difference:
    """A paired difference of accuracies over seeds, with its confidence interval (NaN for a single seed)."""

    mean: float
    low: float
    high: float
    count: int


def summarise(results: pd.DataFrame, policy: str, attack: str, num_byzantine: int) -> Summary | None:
    """All seeds of one policy under one attack; None where nothing was played."""
    runs = _select(results, policy, attack, num_byzantine)
    if runs.empty:
        return None
    return Summary(
        mean=float(runs["accuracy"].mean()),
        std=float(runs["accuracy"].std(ddof=1)),
        count=len(runs),
        diverged=int(runs["diverged"].sum()),
        byzantine_credit=float(runs["byzantine_credit"].astype(float).mean()),
        detection_auc=float(runs["detection_auc"].astype(float).mean()),
    )


def paired_difference(
    results: pd.DataFrame, policy: str, other: str, attacks: Sequence[str], num_byzantine: int
) -> Difference | None:
    """Accuracy of ``policy`` less that of ``other``, seed by seed, averaged over attacks within a seed.

    Every policy meets the same seeds: initial model, data, batches, Byzantine workers. The interval is
    Student's t over seeds.

    Returns:
        None where the two have no seed in common.
    """
    per_seed = []
    for attack in attacks:
        first, second = (
            _select(results, name, attack, num_byzantine).set_index("seed")["accuracy"]
            for name in (policy, other)
        )
        per_seed.append(first - second)
    mean_over_attacks = pd.concat(per_seed, axis=1).dropna().mean(axis=1)
    return None if mean_over_attacks.empty else interval(mean_over_attacks.to_numpy(dtype=float))


def interval(differences: np.ndarray) -> Difference:
    """Mean of paired differences [seeds] and its two-sided t interval.

    Args:
        differences: At least one number.
    """
    from scipy import stats  # takes a while to import

    count, mean = len(differences), float(differences.mean())
    if count < 2:
        return Difference(mean, math.nan, math.nan, count)
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error
    return Difference(mean, mean - half, mean + half, count)


def leader(
    results: pd.DataFrame, policies: Sequence[str], attacks: Sequence[str], num_byzantine: int
) -> str | None:
    """The policy of highest mean accuracy over attacks and seeds, of those played under every attack."""
    means: dict[str, float] = {}
    for policy in policies:
        summaries = [summarise(results, policy, attack, num_byzantine) for attack in attacks]
        found = [summary.mean for summary in summaries if summary is not None]
        if len(found) == len(attacks):
            means[policy] = float(np.mean(found))
    return max(means, key=lambda policy: means[policy]) if means else None


def _select(results: pd.DataFrame, policy: str, attack: str, num_byzantine: int) -> pd.DataFrame:
    chosen = (results["policy"] == policy) & (results["attack"] == attack)
    return results[chosen & (results["num_byzantine"] == num_byzantine)]
