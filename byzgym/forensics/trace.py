"""What is known of one run for its analysis: a few numbers per worker and round."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from byzgym.validation import check_array, check_kind, shown

_KINDS: dict[str, tuple[Any, Any]] = {
    "credits": (float, np.nan),
    "cosine": (float, np.nan),
    "norm": (float, np.nan),
    "copy_of": (int, None),
    "rejected": (bool, False),
    "round": (int, None),
    "qv_loss": (float, np.nan),
    "update_norm": (float, np.nan),
}


@dataclass(frozen=True, eq=False)
class Trace:
    """T rounds of one run with n workers, from a `Log`, a record, or your own numbers.

    Give at least the credits or the cosines; what is not given is unknown (NaN), and nobody is then a near
    copy or rejected.

    Attributes:
        credits: What the policy gave, at least 0; rows of NaN where it gives none.
        cosine: Of the submission and the mean of the updates before, from -1 to 1.
        norm: Of the submission, at least 0.
        copy_of: The first worker whose submission is nearly the same in this round; the worker itself where
            there is none.
        rejected: Whether the submission had an entry that is not finite.
        round: The number of the round.
        qv_loss: The server's quasi-validation loss.
        update_norm: The norm of the update.

    Raises:
        TypeError: If one is no array of numbers.
        ValueError: If shapes do not fit, or a value is not allowed.

    Example:
        >>> Trace(credits=[[0.5, 0.5, 0.0], [0.6, 0.4, 0.0]]).num_workers
        3
    """

    credits: np.ndarray = None  # type: ignore[assignment]  # [T, n]
    cosine: np.ndarray = None  # type: ignore[assignment]  # [T, n]
    norm: np.ndarray = None  # type: ignore[assignment]  # [T, n]
    copy_of: np.ndarray = None  # type: ignore[assignment]  # [T, n] int
    rejected: np.ndarray = None  # type: ignore[assignment]  # [T, n] bool
    round: np.ndarray = None  # type: ignore[assignment]  # [T] int
    qv_loss: np.ndarray = None  # type: ignore[assignment]  # [T]
    update_norm: np.ndarray = None  # type: ignore[assignment]  # [T]

    def __post_init__(self) -> None:
        known = self.credits if self.credits is not None else self.cosine
        if known is None:
            raise ValueError("a trace needs credits or cosine, shape [T, n]")
        shape = check_array("credits or cosine", known, float, "T", "n").shape
        if 0 in shape:
            raise ValueError(f"credits or cosine must have at least one round and worker, got {list(shape)}")
        rounds, workers = shape
        usual = {"copy_of": np.tile(np.arange(workers), (rounds, 1)), "round": np.arange(rounds)}
        for field in fields(self):
            name, given = field.name, getattr(self, field.name)
            kind, missing = _KINDS[name]
            shape = (rounds,) if name in ("round", "qv_loss", "update_norm") else (rounds, workers)
            if given is None:
                given = usual[name] if name in usual else np.full(shape, missing)
            values = check_array(name, given, kind).copy()
            if values.shape != shape:
                raise ValueError(f"{name} must have shape {list(shape)}, got {list(values.shape)}")
            object.__setattr__(self, name, values)
        self._check("credits", self.credits < 0, "numbers of at least 0")
        self._check("norm", self.norm < 0, "numbers of at least 0")
        self._check("cosine", np.abs(self.cosine) > 1 + 1e-6, "numbers from -1 to 1")
        self._check("copy_of", (self.copy_of < 0) | (self.copy_of >= workers), f"from 0 to {workers - 1}")

    def _check(self, name: str, bad: np.ndarray, allowed: str) -> None:
        if name in ("credits", "norm", "cosine"):
            bad = bad | np.isinf(getattr(self, name))
        if bad.any():
            raise ValueError(f"{name} must be {allowed}, got {shown(getattr(self, name)[bad][0].item())}")

    @property
    def num_rounds(self) -> int:
        """T."""
        return self.credits.shape[0]

    @property
    def num_workers(self) -> int:
        """The number n of workers (of groups, where secure groups hide single workers)."""
        return self.credits.shape[1]

    @property
    def copying(self) -> np.ndarray:
        """Who is a near copy of somebody in each round, bool, shape [T, n]."""
        workers = self.num_workers
        return np.stack([np.bincount(first, minlength=workers)[first] > 1 for first in self.copy_of])


def check_trace(trace: Any) -> None:
    """Raise a TypeError unless this is a `Trace`."""
    check_kind("trace", trace, Trace, "a Trace, such as log.trace() or read(path).trace")
