"""The verdicts about the workers of one run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from byzgym.forensics.copies import groups
from byzgym.forensics.patterns import pattern, settled
from byzgym.forensics.suspicion import Threshold, calibrate
from byzgym.forensics.trace import Trace
from byzgym.validation import check_kind

_LISTED = 12  # workers that a line names


@dataclass(frozen=True)
class Verdict:
    """What a run says about one worker.

    Attributes:
        worker: Its number.
        pattern: One of `patterns.PATTERNS`.
        since: The round in which it first attacks; None of an honest worker.
        period: Rounds from attack to attack of a periodic one, else None.
        changes: The rounds in which its role changes, and whether it attacks from there on.
        suspicion: Its mean over all rounds.
        accused: The part of the rounds in which it is accused.
        group: The number of its group of workers who copy each other, or None.
    """

    worker: int
    pattern: str
    since: int | None
    period: int | None
    changes: tuple[tuple[int, bool], ...]
    suspicion: float
    accused: float
    group: int | None

    def __str__(self) -> str:
        if self.pattern == "sleeper":
            return f"sleeper, from round {self.since}"
        if self.pattern == "periodic":
            return f"periodic, every {self.period} rounds"
        if self.pattern == "intermittent":
            return f"intermittent, {self.accused:.0%} of rounds"
        return {"honest": "honest", "byzantine": "Byzantine"}[self.pattern]


@dataclass(frozen=True, eq=False)
class Analysis:
    """What `analyse` finds in a run.

    Attributes:
        trace: The run.
        scores: Suspicion of each worker in each round, 0 to 1, shape [T, n].
        threshold: Above it a worker is accused.
        flagged: Who is accused in each round, bool, shape [T, n].
        roles: ``flagged`` without stretches that are too short to count, bool, shape [T, n].
        verdicts: One for each worker.
        copied_credit: The part of the credit that goes to near copies, mean over the rounds; NaN without
            credits. Honest workers send no near copies: if it is high, the policy is deceived.
        groups: Workers who copy each other, the largest group first. Honest workers with the same data can,
            too: look at their verdicts.
    """

    trace: Trace
    scores: np.ndarray
    threshold: Threshold
    flagged: np.ndarray
    roles: np.ndarray
    verdicts: tuple[Verdict, ...]
    copied_credit: float
    groups: tuple[tuple[int, ...], ...]

    @property
    def accused(self) -> list[int]:
        """The workers whose verdict is not honest."""
        return [verdict.worker for verdict in self.verdicts if verdict.pattern != "honest"]

    @property
    def summary(self) -> str:
        """Who is accused, in one line."""
        if self.threshold.nobody:
            return "nobody is accused: the workers are of one kind"
        if not self.accused:
            return "nobody is accused for long"
        text = f"{len(self.accused)} of {self.trace.num_workers} workers accused"
        if len(self.accused) <= _LISTED:
            text += f": {', '.join(map(str, self.accused))}"
        return f"{text}; the policy is deceived by copies" if self.deceived else text

    @property
    def deceived(self) -> bool:
        """Whether most credit goes to workers who copy each other: `copied_credit` is over 1/2."""
        return self.copied_credit > 0.5


def analyse(trace: Trace) -> Analysis:
    """Judge the workers of a run from what its server knew.

    Args:
        trace: Of a `Log` or a record, or your own.

    Raises:
        TypeError: If it is no `Trace`.

    Example:
        >>> credits = np.full((40, 4), 1 / 3)
        >>> credits[:, 3] = 0
        >>> credits[20:, 2] = 0
        >>> found = analyse(Trace(credits=credits))
        >>> [str(verdict) for verdict in found.verdicts]
        ['honest', 'honest', 'sleeper, from round 20', 'Byzantine']
    """
    threshold, scores = calibrate(trace)
    flagged = scores > threshold.value
    roles = settled(flagged, threshold.window)
    resembling = groups(trace.copy_of)
    number_of = {worker: number for number, group in enumerate(resembling) for worker in group}
    verdicts = []
    for worker in range(trace.num_workers):
        kind, since, period = pattern(roles[:, worker])
        changes = np.flatnonzero(np.diff(roles[:, worker].astype(int))) + 1
        verdicts.append(
            Verdict(
                worker=worker,
                pattern=kind,
                since=None if since is None else int(trace.round[since]),
                period=period,
                changes=tuple((int(trace.round[at]), bool(roles[at, worker])) for at in changes),
                suspicion=float(scores[:, worker].mean()),
                accused=float(flagged[:, worker].mean()),
                group=number_of.get(worker),
            )
        )
    return Analysis(
        trace=trace,
        scores=scores,
        threshold=threshold,
        flagged=flagged,
        roles=roles,
        verdicts=tuple(verdicts),
        copied_credit=_copied_credit(trace),
        groups=tuple(map(tuple, resembling)),
    )


def check_analysis(analysis: Any) -> None:
    """Raise a TypeError unless this is an `Analysis`."""
    check_kind("analysis", analysis, Analysis, "an Analysis, which analyse(trace) gives")


def _copied_credit(trace: Trace) -> float:
    total = trace.credits.sum(1)
    given = total > 0  # false for NaN, too
    if not given.any():
        return math.nan
    copied = (trace.credits * trace.copying).sum(1)
    return float((copied[given] / total[given]).mean())
