"""When a worker was Byzantine: stretches of rounds, changes of roles, and the pattern that they follow."""

from __future__ import annotations

import numpy as np

PATTERNS = ("honest", "byzantine", "sleeper", "periodic", "intermittent")
START = 0.1
"""Who is accused within this first part of a run counts as Byzantine from its start: policies must learn."""
RARE = 0.05
"""What happens in less than this part of the rounds does not count."""
_REGULAR = 0.1  # attacks and the rounds from one to the next vary by at most this part of a period, or by one


def stretches(accused: np.ndarray, shortest: int = 1) -> list[tuple[int, int]]:
    """The stretches of rounds in which a worker is accused.

    Args:
        accused: Of one worker, bool, shape [T].
        shortest: Gaps between stretches and then stretches of fewer rounds do not count.

    Returns:
        The first round of each stretch and the first after it.

    Example:
        >>> stretches(np.array([False, True, True, False, True, False, False, False]), shortest=2)
        [(1, 5)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], accused, [False]]).astype(int)))
    found: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if found and start - found[-1][1] < shortest:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return [(start, end) for start, end in found if end - start >= shortest]


def settled(accused: np.ndarray, shortest: int = 1) -> np.ndarray:
    """The roles [T, n] of workers who are accused in the rounds [T, n].

    Role changes are where these roles change. Short stretches do not count (see `stretches`). A first stretch
    that begins within the first `START` of the run begins with the run, and of a worker who is accused in
    less than `RARE` of the rounds none counts.
    """
    rounds, workers = accused.shape
    roles = np.zeros_like(accused)
    for worker in range(workers):
        found = stretches(accused[:, worker], shortest)
        if sum(end - start for start, end in found) < RARE * rounds:
            continue
        for start, end in found:
            roles[start:end, worker] = True
        if found and found[0][0] <= START * rounds:
            roles[: found[0][0], worker] = True
    return roles


def pattern(role: np.ndarray) -> tuple[str, int | None, int | None]:
    """The pattern of a worker's role [T], the round in which it first attacks, and the period.

    - honest: never Byzantine;
    - byzantine: in all rounds, but for less than `RARE` of them;
    - sleeper: honest at first, and Byzantine from a round on;
    - periodic: three attacks or more, of one length, that begin in one distance of rounds, the period;
    - intermittent: anything else.

    Example:
        >>> pattern(np.arange(100) >= 60)
        ('sleeper', 60, None)
        >>> pattern(np.arange(100) % 20 < 5)
        ('periodic', 0, 20)
    """
    found = stretches(role)
    if not found:
        return "honest", None, None
    first, last = found[0][0], len(role)
    if role[first:].mean() > 1 - RARE:
        return ("byzantine" if first == 0 else "sleeper"), first, None
    # Of a stretch at either end of the trace nobody knows how long it is.
    inner = [(start, end) for start, end in found if start > 0]
    cycles = np.diff([start for start, _ in inner])
    lengths = np.array([end - start for start, end in inner if end < last])
    if len(inner) >= 3:
        period = float(np.mean(cycles))
        tolerance = max(1.0, _REGULAR * period)
        if all((np.abs(part - np.median(part)) <= tolerance).all() for part in (cycles, lengths)):
            return "periodic", first, round(period)
    return "intermittent", first, None
