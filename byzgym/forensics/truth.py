"""How right an analysis is, where a simulation knows the truth. Nothing else in this package is told it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from byzgym.forensics.analysis import Analysis, check_analysis
from byzgym.validation import check_array


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Of the accusations of a run, worker by worker and round by round.

    Numbers are NaN where they are not defined: the AUC without Byzantine or without honest workers, the
    precision where nobody is accused, the recall where nobody is Byzantine.

    Attributes:
        auc: ROC AUC of suspicion, over all workers and rounds.
        precision: The part of the accusations that is right.
        recall: The part of the attacks that is accused.
        auc_by_round: The same in every round, shape [T].
        precision_by_round: Shape [T].
        recall_by_round: Shape [T].
    """

    auc: float
    precision: float
    recall: float
    auc_by_round: np.ndarray
    precision_by_round: np.ndarray
    recall_by_round: np.ndarray


def evaluate(analysis: Analysis, byzantine: np.ndarray) -> Evaluation:
    """Compare an analysis with the truth.

    Args:
        analysis: Of a run in a simulation.
        byzantine: Who was Byzantine in each round, bool, shape [T, n]; [n] where that never changed.

    Raises:
        TypeError: If the analysis is none.
        ValueError: If the shape does not fit.

    Example:
        >>> from byzgym.forensics import Trace, analyse
        >>> found = analyse(Trace(credits=np.tile([0.5, 0.5, 0.0, 0.0], (20, 1))))
        >>> evaluate(found, np.array([False, False, False, True])).precision
        0.5
    """
    check_analysis(analysis)
    shape = analysis.flagged.shape
    given = check_array("byzantine", byzantine, bool)
    if given.shape not in (shape, shape[1:]):
        raise ValueError(f"byzantine must have shape {list(shape)} or [{shape[1]}], got {list(given.shape)}")
    truth = np.broadcast_to(given, shape)
    right = truth & analysis.flagged
    return Evaluation(
        auc=_auc(truth.ravel(), analysis.scores.ravel()),
        precision=float(_ratio(right.sum(), analysis.flagged.sum())),
        recall=float(_ratio(right.sum(), truth.sum())),
        auc_by_round=np.array([_auc(*row) for row in zip(truth, analysis.scores, strict=True)]),
        precision_by_round=_ratio(right.sum(1), analysis.flagged.sum(1)),
        recall_by_round=_ratio(right.sum(1), truth.sum(1)),
    )


def _auc(truth: np.ndarray, scores: np.ndarray) -> float:
    """From the ranks: a round takes microseconds, where scikit-learn's roc_auc_score takes milliseconds."""
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return math.nan
    above = rankdata(scores)[truth].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(np.asarray(whole) > 0, part / np.maximum(whole, 1), np.nan)
