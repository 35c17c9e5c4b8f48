"""The numbers of a comparison: how well credits find Byzantine workers, and means and differences of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

LAST_FOR_CREDIT = 0.1
"""The share of the rounds, at the end of a run, over which the Byzantine credit is averaged."""
LAST_FOR_DETECTION = 0.5
"""The share of the rounds, at the end of a run, whose credits are pooled for the detection AUC."""
LEVEL = 0.95
"""Coverage of the confidence intervals."""


class CreditLog:
    """Credits and Byzantine masks of E runs.

    Rounds in which nobody got credit, because every submission was rejected, do not count.

    Args:
        rounds: Length of the runs.
    """

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []  # credits and masks of the last rounds, [E, n]
        self._traces: list[tuple[np.ndarray, ...]] = []  # of all rounds, to three digits

    def add(
        self, round: int, credits: Tensor | None, byzantine: Tensor, workers: Tensor | None = None
    ) -> None:
        """Note the number of a round, its credits [E, n] if there are any, and its mask [E, n].

        ``workers`` [E, n] says who has submitted the rows, where that is not everybody.
        """
        if credits is None:
            return
        given, mask = credits.detach().cpu().double().numpy(), byzantine.cpu().clone().numpy()
        who = () if workers is None else (workers.cpu().numpy().astype(np.int32),)
        with np.errstate(over="ignore"):
            self._traces.append((given.astype(np.float16), mask, *who))
        if round >= self._rounds - self._count(LAST_FOR_DETECTION):
            self._kept.append((given, mask))

    def trace(self, env: int) -> dict[str, np.ndarray]:
        """All credits of a run and who was Byzantine, [rounds, n] each; empty without credits."""
        names = ("credits", "byzantine", "workers")
        return {
            name: np.array([part[env] for part in parts])
            for name, parts in zip(names, zip(*self._traces, strict=True), strict=False)
        }

    def byzantine_credit(self, env: int) -> float:
        """Credit on Byzantine submissions, mean of the last tenth of the rounds.

        NaN without credits, or where none of the submissions is Byzantine.
        """
        rounds = self._last(env, LAST_FOR_CREDIT)
        if not any(byzantine.any() for _, byzantine in rounds):
            return math.nan
        sums = [(credits * byzantine).sum() for credits, byzantine in rounds]
        return float(np.mean(sums))

    def detection_auc(self, env: int) -> float:
        """ROC AUC of low credit as a detector of Byzantine workers, pooled over the last half of the rounds.

        From 0 to 1; NaN without credits, or where all or none of the submissions are Byzantine.
        """
        rounds = self._last(env, LAST_FOR_DETECTION)
        labels = np.array([byzantine for _, byzantine in rounds]).ravel()
        if labels.all() or not labels.any():
            return math.nan
        from sklearn.metrics import roc_auc_score  # takes a second to import

        return float(roc_auc_score(labels, -np.array([credits for credits, _ in rounds]).ravel()))

    def _last(self, env: int, fraction: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """Credits [n] and masks [n] of one run in the rounds that count, of that share of the rounds."""
        last = self._kept[-self._count(fraction) :]
        return [(credits[env], byzantine[env]) for credits, byzantine in last if (credits[env] > 0).any()]

    def _count(self, fraction: float) -> int:
        return max(1, math.ceil(self._rounds * fraction - 1e-9))


def counted(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with the accuracies that count: a run that diverged counts as chance, 1 / num_classes.

    The model of such a run is of no use, whatever its parameters happen to score. It is no worse than a guess
    either, which is always there to fall back on.

    Raises:
        ValueError: If num_classes is not at least 1 somewhere.

    Example:
        >>> runs = {"accuracy": [0.9, 0.45], "diverged": [False, True], "num_classes": [10, 10]}
        >>> counted(pd.DataFrame(runs))["accuracy"].tolist()
        [0.9, 0.1]
    """
    classes = runs["num_classes"]
    if not (classes >= 1).all():
        raise ValueError(f"num_classes must be at least 1 in every run, got {classes.min()}")
    return runs.assign(accuracy=runs["accuracy"].mask(runs["diverged"].astype(bool), 1 / classes))


def counted_curves(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """The curves with the accuracies that count: a run that diverged counts as chance in every round.

    Args:
        runs: `Results.runs`.
        curves: `Results.curves` of these runs.

    Raises:
        ValueError: If num_classes is not at least 1 somewhere.

    Example:
        >>> run = {"policy": "mean", "attack": "ipm", "num_byzantine": 3, "seed": 0}
        >>> runs = pd.DataFrame([run | {"accuracy": 0.0, "diverged": True, "num_classes": 10}])
        >>> points = [{"round": 50, "accuracy": 0.4}, {"round": 100, "accuracy": 0.0}]
        >>> counted_curves(runs, pd.DataFrame([run | point for point in points]))["accuracy"].tolist()
        [0.1, 0.1]
    """
    keys = ["policy", "attack", "num_byzantine", "seed"]
    chance = counted(runs).loc[runs["diverged"].astype(bool), [*keys, "accuracy"]]
    joined = curves.merge(chance, "left", keys, suffixes=("", " that counts"))
    accuracy = joined.pop("accuracy that counts").astype(float).fillna(joined["accuracy"])
    return joined.assign(accuracy=accuracy)


def summarise(
    runs: pd.DataFrame, num_byzantine: int, attacks: Sequence[str] = (), policies: Sequence[str] = ()
) -> dict[tuple[str, str], dict[str, float]]:
    """The numbers of each policy under each attack, by (policy, attack).

    For policies without runs under one of ``attacks``, and for others in ``policies``, they are NaN.

    They are the mean and std of the accuracy over seeds (NaN for a single seed), the number of runs that
    diverged, which count as chance (`counted`), and the means of byzantine_credit and detection_auc (NaN
    without credits).
    """
    chosen = counted(runs[runs["num_byzantine"] == num_byzantine])
    summary: Any = chosen.groupby(["policy", "attack"]).agg(
        mean=("accuracy", "mean"),
        std=("accuracy", "std"),
        diverged=("diverged", "sum"),
        byzantine_credit=("byzantine_credit", "mean"),
        detection_auc=("detection_auc", "mean"),
    )
    found: dict[tuple[str, str], dict[str, float]] = summary.to_dict("index")
    nothing = {name: 0 if name == "diverged" else math.nan for name in summary}
    named = {*chosen["policy"], *policies}
    absent = {(policy, attack): nothing for policy in named for attack in attacks}
    return absent | found


def paired_difference(
    runs: pd.DataFrame, policy: str, other: str, attacks: Sequence[str], num_byzantine: int
) -> tuple[float, float, float]:
    """Accuracy of ``policy`` less that of ``other``, seed by seed, averaged over attacks within a seed.

    Every policy meets the same seeds: initial model, data, batches, Byzantine workers. Runs that diverged
    count as chance (`counted`).

    Returns:
        The mean over the seeds that both have under all attacks (NaN where there are none), and the bounds of
        Student's t interval (NaN for a single seed).
    """
    chosen = counted(runs[(runs["num_byzantine"] == num_byzantine) & runs["attack"].isin(attacks)])
    accuracy = chosen.pivot(index="seed", columns=["policy", "attack"], values="accuracy")
    own, others = (
        accuracy.reindex(columns=pd.MultiIndex.from_product([[name], attacks])).to_numpy(float)
        for name in (policy, other)
    )
    differences = (own - others).mean(1)
    differences = differences[~np.isnan(differences)]
    mean, half = float(differences.mean()) if len(differences) else math.nan, math.nan
    if len(differences) > 1:
        from scipy import stats  # takes a while to import

        error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
        half = float(stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1)) * error
    return mean, mean - half, mean + half
