"""How well credits tell Byzantine submissions from honest ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LAST_FOR_CREDIT = 0.1
"""The share of the rounds, at the end of a run, over which the Byzantine credit is averaged."""

LAST_FOR_DETECTION = 0.5
"""The share of the rounds, at the end of a run, whose credits are pooled for the detection AUC."""


class CreditLog:
    """Credits and masks of the last rounds of E runs.

    Args:
        rounds: Length of the runs.
    """

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._first = rounds - _share(rounds, LAST_FOR_DETECTION)
        self._credits: list[Tensor] = []
        self._byzantine: list[Tensor] = []

    def add(self, round: int, credits: Tensor | None, byzantine: Tensor) -> None:
        """Note a round: its number, the credits [E, n] if there are any, and the mask [E, n] of that round."""
        if credits is not None and round >= self._first:
            self._credits.append(credits.detach().cpu())
            self._byzantine.append(byzantine.cpu().clone())

    def byzantine_credit(self, env: int) -> float:
        """Mean over the last tenth of the rounds of the credit on Byzantine submissions; NaN without credits."""
        if not self._credits:
            return math.nan
        last = _share(self._rounds, LAST_FOR_CREDIT)
        return byzantine_credit(self._of(self._credits, env)[-last:], self._of(self._byzantine, env)[-last:])

    def detection_auc(self, env: int) -> float:
        """`detection_auc` over the last half of the rounds."""
        if not self._credits:
            return math.nan
        return detection_auc(self._of(self._credits, env), self._of(self._byzantine, env))

    @staticmethod
    def _of(log: Sequence[Tensor], env: int) -> np.ndarray:
        return torch.stack([entry[env] for entry in log]).numpy()


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
