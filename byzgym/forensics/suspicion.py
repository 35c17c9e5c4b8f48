"""How suspicious each worker is in each round, and above which suspicion it is accused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

from byzgym.forensics.trace import Trace, check_trace
from byzgym.validation import check_array, check_int

WINDOWS = (1, 3, 9)
"""Lengths, in rounds, over which traces may be averaged."""
SEPARATION = 4.0
"""How far apart two kinds of workers must be, in standard deviations (Ashman's D), for anybody to be accused.
The halves of one normal or uniform population have D = 2.6 or 3.5."""
GAP = 0.5
"""How far apart their mean suspicions must be, too."""
_LEAST_SPREAD = 0.01  # a standard deviation, so that two points are not infinitely far apart


def suspicion(trace: Trace, window: int = 1) -> np.ndarray:
    """The suspicion of every worker in every round: no credit, times unlike those who have credit.

    - *No credit*: 0 for a worker with its fair share, 1 / n of all credit, or more; 1 for one with none.
      Without credits it is 1 for all. What a policy gives to near copies does not count, because honest
      workers send none, and colluders who do so deceive Krum and its kin.
    - *Unlike*: the distance, at most 1, between what the worker sends and what the credited workers send on
      average (where each counts at most its fair share; without credits, what the median worker sends). What
      a worker sends is described by four numbers: its cosine with the past updates, log10 of its norm,
      whether it is a near copy of another's, and whether it was rejected. Where a trace knows none of them,
      all are unlike.

    Both are needed. A policy may give honest workers no credit, as GAA does with most of them, and honest
    workers with unusual data are unlike the rest.

    Args:
        trace: A run.
        window: Credits and descriptions are averaged over so many rounds, half of them before and half after.

    Returns:
        Shape [T, n], from 0 to 1; higher is more suspicious.

    Example:
        >>> suspicion(Trace(credits=[[0.5, 0.5, 0.0], [0.6, 0.4, 0.0]]))
        array([[0., 0., 1.],
               [0., 0., 1.]])
    """
    check_trace(trace)
    check_int("window", window, low=1)
    credits = _averaged(np.where(trace.copying, 0, trace.credits), window)
    total = credits.sum(1, keepdims=True)
    given = total > 0  # false for NaN, too
    share = np.where(given, trace.num_workers * credits / np.where(given, total, 1), 0)
    uncredited = np.clip(1 - share, 0, 1)
    described = _described(trace, window)
    weights = np.minimum(share, 1)[..., None] * np.isfinite(described)
    sums = weights.sum(1)
    credited = (weights * np.nan_to_num(described)).sum(1) / np.where(sums > 0, sums, 1)
    others = _averaged(trace.copying.astype(float), window)[..., None] < 0.5
    reference = np.where(sums > 0, credited, _median(np.where(others, described, np.nan)))
    differences = described - reference[:, None]
    unlike = np.minimum(1, np.sqrt(np.nansum(differences**2, -1)))
    if np.isnan(trace.cosine).all() and np.isnan(trace.norm).all():
        unlike = np.ones_like(unlike)
    return uncredited * unlike


def _described(trace: Trace, window: int) -> np.ndarray:
    """What workers send, as four numbers, shape [T, n, 4]."""
    with np.errstate(divide="ignore"):
        lengths = np.log10(trace.norm)
    # Zero, and what is a hundred times the typical length, count as a hundredth and a hundred times.
    lengths = np.clip(lengths - _median(np.where(np.isinf(lengths), np.nan, lengths))[:, None], -2, 2)
    numbers = (trace.cosine, lengths, trace.copying.astype(float), trace.rejected.astype(float))
    return np.stack([_averaged(number, window) for number in numbers], -1)


def _averaged(values: np.ndarray, window: int) -> np.ndarray:
    """Centred means over rounds of what is known; at the ends over fewer rounds."""
    if window == 1:
        return values
    known = np.isfinite(values)
    sums, counts = (
        uniform_filter1d(part, window, axis=0, mode="constant")
        for part in (np.where(known, values, 0.0), known.astype(float))
    )
    return np.where(counts > 1e-9, sums / np.maximum(counts, 1e-9), np.nan)


def _median(values: np.ndarray) -> np.ndarray:
    """The median over workers (axis 1) of what is known; 0 where nothing is."""
    known = np.isfinite(values)
    ordered = np.sort(np.where(known, values, np.inf), 1)
    counts = known.sum(1, keepdims=True)
    middle = [np.take_along_axis(ordered, np.maximum((counts - odd) // 2, 0), 1) for odd in (1, 0)]
    middle[1] = np.where(counts > (counts // 2), middle[1], middle[0])
    return np.where(counts > 0, np.add(*middle) / 2, 0)[:, 0]


@dataclass(frozen=True)
class Threshold:
    """A threshold of suspicion that was found without knowing who is Byzantine.

    Attributes:
        value: Above it a worker is accused; infinite where nobody is.
        window: The rounds over which traces were averaged.
        separation: Ashman's D: how far apart the two kinds are, in standard deviations.
        gap: The difference of their mean suspicions.
    """

    value: float
    window: int
    separation: float
    gap: float

    @property
    def nobody(self) -> bool:
        """Whether the suspicions show one kind of workers only, so that nobody is accused."""
        return bool(np.isinf(self.value))


def split(scores: np.ndarray) -> tuple[float, float, float]:
    """Split numbers in two where the variance between the parts is largest.

    Otsu 1979, "A Threshold Selection Method from Gray-Level Histograms" (https://doi.org/10.1109/TSMC.1979.4310076).
    How well the parts are apart is D = sqrt(2) |m1 - m2| / sqrt(s1^2 + s2^2) of Ashman et al. 1994,
    "Detecting Bimodality in Astronomical Datasets" (https://doi.org/10.1086/117248).

    Args:
        scores: Any shape.

    Returns:
        The threshold, D, and the difference of the means.

    Example:
        >>> threshold, separation, gap = split(np.array([0.0, 0.1, 0.1, 0.9, 1.0]))
        >>> threshold, gap
        (0.5, 0.88)
    """
    ordered = np.sort(check_array("scores", scores, float), axis=None)
    if not len(ordered):
        raise ValueError("scores must not be empty")
    below = np.arange(1, len(ordered))
    above = len(ordered) - below
    if not len(below) or ordered[0] == ordered[-1]:
        return float(ordered[-1]), 0.0, 0.0
    sums = ordered.cumsum()
    means = sums[:-1] / below, (sums[-1] - sums[:-1]) / above
    between = below * above * (means[1] - means[0]) ** 2
    best = int(between.argmax())
    low, high = ordered[: best + 1], ordered[best + 1 :]
    spread = np.hypot(max(low.std(), _LEAST_SPREAD), max(high.std(), _LEAST_SPREAD))
    gap = high.mean() - low.mean()
    return float((low[-1] + high[0]) / 2), float(np.sqrt(2) * gap / spread), float(gap)


def calibrate(trace: Trace) -> tuple[Threshold, np.ndarray]:
    """Find the threshold of a run from its suspicions alone.

    The suspicions of all workers in all rounds are split in two (`split`), for each of the `WINDOWS` that are
    at most a quarter of the run. The window with the largest D is taken: long ones hide noise, and blur fast
    changes of roles. Where D is less than `SEPARATION`, or the two means differ by less than `GAP`, the
    workers are of one kind, and nobody is accused.

    Returns:
        The threshold, and the suspicions [T, n] with its window.
    """
    check_trace(trace)
    best, scores = Threshold(np.inf, 1, -1.0, 0.0), np.zeros(0)
    for window in WINDOWS:
        if window > max(1, trace.num_rounds // 4):
            break
        found = suspicion(trace, window)
        value, separation, gap = split(found)
        if separation > best.separation:
            apart = separation >= SEPARATION and gap >= GAP
            best = Threshold(value if apart else np.inf, window, separation, gap)
            scores = found
    return best, scores
