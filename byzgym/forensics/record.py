"""A record of one run that an operator can keep: a text file with one JSON object a line (JSON lines).

- The first line has `type` "header", `schema` 1, `versions`, and the `configuration` that you give.
- Every round has a line with `type` "round" and `round`; per worker `credits` (null without credits),
  `cosine`, `norm` and `copy_of`; the lists of workers `rejected` and, from a simulation, `byzantine`;
  `qv_loss` and `update_norm`; and, once the run is finished, the `scores` and the list `flagged`.
- The last line has `type` "verdicts", `summary`, `threshold` (null where nobody is accused), `window`,
  `separation`, `gap`, `copied_credit`, `workers` (a verdict each) and `groups`.

The fields of a round are those of a `Trace`, scores and flagged those of an `Analysis`; null stands for what
is not known. A run that was interrupted has no last line, and its rounds have no scores; `read` takes it.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import numpy as np
from torch import Tensor

import byzgym
from byzgym.files import WriteError, write_whole
from byzgym.forensics.analysis import Analysis, analyse
from byzgym.forensics.log import Log
from byzgym.forensics.trace import Trace
from byzgym.validation import check_array, check_kind, check_path, shown

SCHEMA = 1
"""Rises whenever the fields change."""


@dataclass(frozen=True, eq=False)
class Record:
    """What `read` finds in a file.

    Attributes:
        configuration: As it was given to the `Recorder`.
        versions: Of byzgym and the libraries that the run used.
        trace: The rounds.
        byzantine: Who was Byzantine, bool, shape [T, n]; None where nobody knows.
        complete: Whether the run was finished.
        verdicts: The last line, or None.
    """

    configuration: dict[str, Any]
    versions: dict[str, str]
    trace: Trace
    byzantine: np.ndarray | None
    complete: bool
    verdicts: dict[str, Any] | None


class Recorder:
    """Writes the record of one run, a line a round, as the run goes on.

    The module's docstring lists the fields. Used as a context manager, it calls `close` at the end, unless an
    error ends the block: the file then holds the rounds up to there.

    Args:
        path: The file; its folder must exist.
        configuration: What you want to find in the first line; any JSON.
        overwrite: Whether a file may be replaced.

    Raises:
        FileExistsError: If the file exists and ``overwrite`` is False.
        WriteError: If it cannot be written.
        TypeError: If the configuration is no JSON, or the path is none.
    """

    def __init__(
        self,
        path: str | Path,
        configuration: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = check_path("path", path)
        check_kind("configuration", configuration, (Mapping, type(None)), "a mapping or None")
        versions = {name: version(name) for name in ("torch", "numpy", "scipy")}
        versions = {"byzgym": byzgym.__version__, **versions, "python": platform.python_version()}
        header = {"type": "header", "schema": SCHEMA, "versions": versions}
        first = json.dumps({**header, "configuration": dict(configuration or {})})
        try:
            self._file: TextIO | None = self.path.open("w" if overwrite else "x", encoding="utf-8")
        except FileExistsError:
            raise FileExistsError(f"{self.path} exists; choose another file or overwrite it") from None
        except OSError as error:
            raise WriteError(f"cannot write {self.path}: {error.strerror or error}") from error
        self._write(first)

    def add(self, log: Log, run: int = 0, byzantine: Tensor | np.ndarray | None = None) -> None:
        """Write the round that was added to the log last.

        Args:
            log: What keeps the rounds.
            run: The number of the run in the log.
            byzantine: Who is Byzantine in this round, bool, shape [n], where a simulation knows it.

        Raises:
            TypeError: If the log is none.
            ValueError: If the record is closed.
            WriteError: If the line cannot be written.
        """
        if self._file is None:
            raise ValueError(f"the record {self.path} is closed")
        check_kind("log", log, Log, "a Log")
        self._write(json.dumps(_round(log.trace(run, last=1), 0, byzantine)))

    def close(self) -> Analysis | None:
        """Add scores, flags and the verdicts to the file.

        Returns:
            The analysis; None where there is no round.
        """
        if self._file is None:
            raise ValueError(f"the record {self.path} is closed")
        self._file.close()
        self._file = None
        return finish(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        if kind is None:
            self.close()
        else:
            self._file.close()
            self._file = None

    def _write(self, line: str) -> None:
        assert self._file is not None
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise WriteError(f"cannot write {self.path}: {error.strerror or error}") from error


def finish(path: str | Path) -> Analysis | None:
    """Add scores, flags and the verdicts to a record that was interrupted; returns the analysis.

    A record without rounds stays as it is.
    """
    path = check_path("path", path)
    header, rounds, _ = _lines(path)
    if not rounds:
        return None
    analysis = analyse(_trace(rounds))
    for number, line in enumerate(rounds):
        line["scores"] = _numbers(analysis.scores[number])
        line["flagged"] = np.flatnonzero(analysis.flagged[number]).tolist()
    threshold = analysis.threshold
    last = {
        "type": "verdicts",
        "summary": analysis.summary,
        "threshold": _number(threshold.value),
        "window": threshold.window,
        "separation": _number(threshold.separation),
        "gap": _number(threshold.gap),
        "copied_credit": _number(analysis.copied_credit),
        "workers": [
            {**asdict(verdict), "suspicion": _number(verdict.suspicion), "verdict": str(verdict)}
            for verdict in analysis.verdicts
        ],
        "groups": analysis.groups,
    }
    with write_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in (header, *rounds, last))
    return analysis


def read(path: str | Path) -> Record:
    """Read a record, also of a run that was interrupted or still goes on.

    Raises:
        TypeError: If the path is none.
        FileNotFoundError: If there is no such file.
        ValueError: If it is no record, or holds no rounds.
    """
    path = check_path("path", path)
    header, rounds, last = _lines(path)
    if not rounds:
        raise ValueError(f"{path} holds no rounds")
    try:
        trace = _trace(rounds)
        byzantine = None
        if all("byzantine" in line for line in rounds):
            byzantine = np.stack([_mask(line["byzantine"], trace.num_workers) for line in rounds])
        return Record(header["configuration"], header["versions"], trace, byzantine, last is not None, last)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{path} is not a record: {type(error).__name__}: {error}") from None


def _lines(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any] | None]:
    """The header, the rounds and the last line of a finished record."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no record {path}")
    texts = path.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = []
    for number, text in enumerate(texts):
        try:
            lines.append(json.loads(text))
        except ValueError:
            if number < len(texts) - 1:  # what a run was writing when it was interrupted does not count
                raise ValueError(
                    f"{path} is not a record: line {number + 1} is no JSON: {shown(text)}"
                ) from None
    kinds = [line.get("type") if isinstance(line, dict) else None for line in lines]
    if not lines or kinds[0] != "header":
        raise ValueError(f"{path} is not a record: its first line must be a header")
    if lines[0].get("schema") != SCHEMA:
        raise ValueError(f"{path} must be a record of schema {SCHEMA}, got {shown(lines[0].get('schema'))}")
    last = lines.pop() if kinds[-1] == "verdicts" else None
    for number, kind in enumerate(kinds[1 : len(lines)], start=2):
        if kind != "round":
            raise ValueError(f"{path} is not a record: line {number} must be a round, got {shown(kind)}")
    return lines[0], lines[1:], last


def _round(trace: Trace, at: int, byzantine: Tensor | np.ndarray | None) -> dict[str, Any]:
    credits = trace.credits[at]
    line = {
        "type": "round",
        "round": int(trace.round[at]),
        "credits": None if np.isnan(credits).all() else _numbers(credits),
        "cosine": _numbers(trace.cosine[at]),
        "norm": _numbers(trace.norm[at]),
        "copy_of": trace.copy_of[at].tolist(),
        "rejected": np.flatnonzero(trace.rejected[at]).tolist(),
        "qv_loss": _number(trace.qv_loss[at]),
        "update_norm": _number(trace.update_norm[at]),
    }
    if byzantine is not None:
        given = byzantine.cpu() if isinstance(byzantine, Tensor) else byzantine
        known = check_array("byzantine", given, bool)
        if known.shape != credits.shape:
            raise ValueError(f"byzantine must have shape {list(credits.shape)}, got {list(known.shape)}")
        line["byzantine"] = np.flatnonzero(known).tolist()
    return line


def _trace(rounds: list[dict[str, Any]]) -> Trace:
    workers = len(rounds[0]["copy_of"])
    unknown = [None] * workers

    def table(name: str) -> np.ndarray:
        return np.array([line[name] or unknown for line in rounds], dtype=float)

    return Trace(
        credits=table("credits"),
        cosine=table("cosine"),
        norm=table("norm"),
        copy_of=np.array([line["copy_of"] for line in rounds]),
        rejected=np.stack([_mask(line["rejected"], workers) for line in rounds]),
        round=np.array([line["round"] for line in rounds]),
        qv_loss=np.array([line["qv_loss"] for line in rounds], dtype=float),
        update_norm=np.array([line["update_norm"] for line in rounds], dtype=float),
    )


def _mask(workers: list[int], count: int) -> np.ndarray:
    mask = np.zeros(count, dtype=bool)
    mask[workers] = True
    return mask


def _numbers(values: np.ndarray) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    """Seven digits, all that a float32 holds; null for what JSON has no number for."""
    return float(f"{float(value):.7g}") if math.isfinite(value) else None
