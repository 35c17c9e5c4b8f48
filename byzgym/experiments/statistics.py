"""The numbers of a comparison: how well credits find Byzantine workers, and means and differences of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

LAST_FOR_CREDIT = 0.1
"""The share of the rounds, at the end of a run, over which the Byzantine credit is averaged."""
LAST_FOR_DETECTION = 0.5
"""The share of the rounds, at the end of a run, whose credits are pooled for the detection AUC."""
LEVEL = 0.95
"""Coverage of the confidence intervals."""


class CreditLog:
    """Credits and Byzantine masks of the last rounds of E runs.

    Rounds in which nobody got credit, because every submission was rejected, do not count.

    Args:
        rounds: Length of the runs.
    """

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._credits: list[Tensor] = []
        self._byzantine: list[Tensor] = []

    def add(self, round: int, credits: Tensor | None, byzantine: Tensor) -> None:
        """Note the number of a round, its credits [E, n] if there are any, and its mask [E, n]."""
        if credits is not None and round >= self._rounds - _share(self._rounds, LAST_FOR_DETECTION):
            self._credits.append(credits.detach().cpu())
            self._byzantine.append(byzantine.cpu().clone())

    def byzantine_credit(self, env: int) -> float:
        """`byzantine_credit` over the last tenth of the rounds; NaN without credits."""
        credits, byzantine = self._last(env, LAST_FOR_CREDIT)
        return byzantine_credit(credits, byzantine) if len(credits) else math.nan

    def detection_auc(self, env: int) -> float:
        """`detection_auc` over the last half of the rounds; NaN without credits."""
        credits, byzantine = self._last(env, LAST_FOR_DETECTION)
        return detection_auc(credits, byzantine) if len(credits) else math.nan

    def _last(self, env: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Credits and masks [rounds, n] of one run in that share of the rounds."""
        if not self._credits:
            return np.empty((0, 0)), np.empty((0, 0), dtype=bool)
        last = slice(-_share(self._rounds, fraction), None)
        credits = torch.stack([entry[env] for entry in self._credits[last]]).numpy()
        byzantine = torch.stack([entry[env] for entry in self._byzantine[last]]).numpy()
        counts = credits.sum(1) > 0
        return credits[counts], byzantine[counts]


def byzantine_credit(credits: np.ndarray, byzantine: np.ndarray) -> float:
    """Mean over rounds of the credit on Byzantine submissions; both arguments are [rounds, n]."""
    return float((credits.astype(np.float64) * byzantine).sum(1).mean())


def detection_auc(credits: np.ndarray, byzantine: np.ndarray) -> float:
    """ROC AUC of low credit as a detector of Byzantine workers, over all rounds pooled.

    Args:
        credits: Shape [rounds, n].
        byzantine: Bool, shape [rounds, n].

    Returns:
        From 0 to 1; NaN where all or none of the submissions are Byzantine.
    """
    from sklearn.metrics import roc_auc_score  # takes a second to import

    labels = byzantine.ravel()
    if labels.all() or not labels.any():
        return math.nan
    return float(roc_auc_score(labels, -credits.ravel()))


class Summary(NamedTuple):
    """Means over the seeds of one policy under one attack; NaN where undefined."""

    mean: float  # accuracy, 0 to 1
    std: float  # of the accuracy, with n - 1
    diverged: int  # runs
    byzantine_credit: float
    detection_auc: float


def summarise(runs: pd.DataFrame, policy: str, attack: str, num_byzantine: int) -> Summary | None:
    """All seeds of one policy under one attack; None where nothing was played."""
    chosen = _select(runs, policy, attack, num_byzantine)
    if chosen.empty:
        return None
    return Summary(
        mean=float(chosen["accuracy"].mean()),
        std=float(chosen["accuracy"].std(ddof=1)),
        diverged=int(chosen["diverged"].sum()),
        byzantine_credit=float(chosen["byzantine_credit"].astype(float).mean()),
        detection_auc=float(chosen["detection_auc"].astype(float).mean()),
    )


class Difference(NamedTuple):
    """A mean paired difference of accuracies and its confidence interval (NaN for a single seed)."""

    mean: float
    low: float
    high: float


def paired_difference(
    runs: pd.DataFrame, policy: str, other: str, attacks: Sequence[str], num_byzantine: int
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
            _select(runs, name, attack, num_byzantine).set_index("seed")["accuracy"]
            for name in (policy, other)
        )
        per_seed.append(first - second)
    differences = pd.concat(per_seed, axis=1).dropna().mean(axis=1).to_numpy(dtype=float)
    if not len(differences):
        return None
    mean, half = float(differences.mean()), math.nan
    if len(differences) > 1:
        from scipy import stats  # takes a while to import

        error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
        half = float(stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1)) * error
    return Difference(mean, mean - half, mean + half)


def leader(
    runs: pd.DataFrame, policies: Sequence[str], attacks: Sequence[str], num_byzantine: int
) -> str | None:
    """The policy of highest mean accuracy over attacks and seeds, of those played under every attack."""
    means: dict[str, float] = {}
    for policy in policies:
        summaries = [summarise(runs, policy, attack, num_byzantine) for attack in attacks]
        found = [summary.mean for summary in summaries if summary is not None]
        if len(found) == len(attacks):
            means[policy] = float(np.mean(found))
    return max(means, key=lambda policy: means[policy]) if means else None


def _select(runs: pd.DataFrame, policy: str, attack: str, num_byzantine: int) -> pd.DataFrame:
    chosen = (runs["policy"] == policy) & (runs["attack"] == attack)
    return runs[chosen & (runs["num_byzantine"] == num_byzantine)]


def _share(rounds: int, fraction: float) -> int:
    return max(1, math.ceil(rounds * fraction - 1e-9))
