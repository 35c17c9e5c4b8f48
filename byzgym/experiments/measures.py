"""How well credits tell Byzantine submissions from honest ones."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

LAST_FOR_CREDIT = 0.1
"""The share of the rounds, at the end of a run, over which the Byzantine credit is averaged."""

LAST_FOR_DETECTION = 0.5
"""The share of the rounds, at the end of a run, whose credits are pooled for the detection AUC."""


class CreditLog:
    """Credits and masks of the last rounds of E runs.

    Rounds in which nobody got credit, because every submission was rejected, do not count: so end the runs
    in which the parameters have grown beyond what gradients can be computed at.

    Args:
        rounds: Length of the runs.
    """

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._first = rounds - _share(rounds, LAST_FOR_DETECTION)
        self._credits: list[Tensor] = []
        self._byzantine: list[Tensor] = []

    def add(self, round: int, credits: Tensor | None, byzantine: Tensor) -> None:
        """Note the number of a round, its credits [E, n] if there are any, and its mask [E, n]."""
        if credits is not None and round >= self._first:
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
        last = _share(self._rounds, fraction)
        if not self._credits:
            return np.empty((0, 0)), np.empty((0, 0), dtype=bool)
        credits = torch.stack([entry[env] for entry in self._credits[-last:]]).numpy()
        byzantine = torch.stack([entry[env] for entry in self._byzantine[-last:]]).numpy()
        counts = credits.sum(1) > 0
        return credits[counts], byzantine[counts]


def byzantine_credit(credits: np.ndarray, byzantine: np.ndarray) -> float:
    """Mean over rounds of the sum of the credits on Byzantine submissions.

    Args:
        credits: Shape [rounds, n].
        byzantine: Bool, shape [rounds, n].
    """
    return float((credits.astype(np.float64) * byzantine).sum(1).mean())


def detection_auc(credits: np.ndarray, byzantine: np.ndarray) -> float:
    """Area under the ROC curve with which low credit predicts "Byzantine", over all rounds pooled.

    Args:
        credits: Shape [rounds, n].
        byzantine: Bool, shape [rounds, n].

    Returns:
        From 0 to 1, 0.5 where credits say nothing; NaN where all or none of the submissions are Byzantine.
    """
    from sklearn.metrics import roc_auc_score  # takes a second to import

    labels = byzantine.ravel()
    if labels.all() or not labels.any():
        return math.nan
    return float(roc_auc_score(labels, -credits.ravel()))


def _share(rounds: int, fraction: float) -> int:
    return max(1, math.ceil(rounds * fraction - 1e-9))
