"""The store of a folder: every run that has been played there, in one SQLite database, runs.sqlite.

A row is a run, and its primary key is the hash of its full configuration and of the code that played it
(`byzgym.experiments.identity`). What is finished stays: runs that were played side by side are written in one
transaction, and a run that is there already is never replaced. So a process may be killed at any moment, and
several may write to one store. DuckDB, pandas and `byzgym export` read it. It is in WAL mode, which needs a
local disk; stores of several machines are merged.
"""

from __future__ import annotations

import io
import json
import os
import sqlite3
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd

from byzgym.experiments.results import CURVE_COLUMNS, RUN, RUN_COLUMNS
from byzgym.validation import shown

NAME = "runs.sqlite"
VERSION = 2
"""Of the tables below; another one is refused."""
RECORD_COLUMNS = {
    **{"key": str, "setting": str, "unit": str, "status": str, "error": str, "code": str, "versions": str},
    **{"machine": str, "finished": str, "configuration": str, "curve": str, "credits": bytes},
    "threat_model": str,
}
"""What a row holds beside `RUN_COLUMNS`: status is done or failed, curve and threat model are JSON, and the
credits are what `unpack` reads."""

_TYPES = {str: "TEXT", int: "INTEGER", float: "REAL", bool: "INTEGER", bytes: "BLOB"}
_ASKED = ("key", "setting", "asked", "comparison", "told", "refs", "notes", "versions", "imports", "runs")
_COLUMNS = {**RECORD_COLUMNS, **RUN_COLUMNS}
_CURVE = ("round", "accuracy", "attack_success_rate", "qv_loss")
_BUSY = 60.0  # seconds to wait for another writer
_AT_ONCE = 500  # keys in one question


class DamagedError(ValueError):
    """What a store holds of a run or a comparison cannot be read; the message says which, and what to do."""


class Store:
    """The runs of a folder.

    Args:
        folder: Where runs.sqlite is.
        create: Whether to make folder and file where there is none.

    Raises:
        FileNotFoundError: If there is none.
        OSError: If it cannot be read or written.
        ValueError: If it is something else than a store of this version.
        DamagedError: From the methods, if a run or a comparison is not as it was written.
    """

    def __init__(self, folder: str | Path, create: bool = False) -> None:
        self.path = Path(folder) / NAME
        if create:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OSError(_unusable(folder, error.strerror)) from None
        elif not self.path.is_file():
            raise FileNotFoundError(f"{folder} holds no runs: {NAME} is missing")
        # In a folder that cannot be written to, SQLite makes no files of its own beside the database.
        fixed = not create and not os.access(self.path.parent, os.W_OK) and not self._log().exists()
        self._uri = self.path.resolve().as_uri() + ("?immutable=1" if fixed else "")
        with self._errors():
            self._db = sqlite3.connect(self._uri, timeout=_BUSY, isolation_level=None, uri=True)
            if fixed:
                self._check_version()
            else:
                self._set_up()

    def _log(self) -> Path:
        """What SQLite has not yet moved into the database."""
        return self.path.with_name(f"{NAME}-wal")

    def _check_version(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and tables:
            raise ValueError(f"{self.path} is not a store of runs: it has tables of something else")
        if version not in (0, VERSION):
            raise ValueError(f"{self.path} has version {version} of byzgym's tables, not {VERSION}")

    def _set_up(self) -> None:
        until = time.monotonic() + _BUSY
        while True:  # the change to WAL does not wait for another process that is about it
            try:
                self._check_version()
                self._db.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.05)
        self._db.execute("PRAGMA synchronous=FULL")  # also a power cut loses nothing
        with self._transaction():
            self._check_version()
            columns = ", ".join(f'"{name}" {_TYPES[kind]}' for name, kind in list(_COLUMNS.items())[1:])
            self._db.execute(f"CREATE TABLE IF NOT EXISTS runs (key TEXT PRIMARY KEY, {columns})")
            self._db.execute("CREATE INDEX IF NOT EXISTS by_setting ON runs (setting)")
            self._db.execute("CREATE TABLE IF NOT EXISTS units (unit TEXT PRIMARY KEY, members TEXT)")
            asked = ", ".join(f"{name} TEXT" for name in _ASKED[1:])
            self._db.execute(f"CREATE TABLE IF NOT EXISTS comparisons (key TEXT PRIMARY KEY, {asked})")
            self._db.execute(f"PRAGMA user_version={VERSION}")

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def done(self, keys: Iterable[str]) -> set[str]:
        """Which of these runs are finished."""
        keys, found = list(keys), set()
        with self._errors():
            for start in range(0, len(keys), _AT_ONCE):
                some = keys[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                query = f"SELECT key FROM runs WHERE status = 'done' AND key IN ({marks})"
                found |= {key for (key,) in self._db.execute(query, some)}
        return found

    def add(self, rows: Sequence[Mapping[str, Any]], units: Mapping[str, str] | None = None) -> None:
        """Write runs, all of them or none; those that are finished already stay as they are.

        Args:
            rows: The columns of each.
            units: For the hash of each unit, its members as JSON: what was played side by side.
        """
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO units VALUES (?, ?)", list((units or {}).items()))
            self._db.executemany(
                f"INSERT INTO runs VALUES ({', '.join(':' + name for name in _COLUMNS)}) {_keep_done()}",
                [{name: row.get(name) for name in _COLUMNS} for row in rows],
            )

    def ask(self, entry: Mapping[str, Any]) -> None:
        """Note a comparison that somebody wants: what `asked` gives, or its key and the time once more."""
        if len(entry) == 2:
            with self._transaction():
                self._db.execute("UPDATE comparisons SET asked = :asked WHERE key = :key", entry)
            return
        values = [entry[name] if isinstance(entry[name], str) else json.dumps(entry[name]) for name in _ASKED]
        with self._transaction():
            self._db.execute(f"INSERT OR REPLACE INTO comparisons VALUES ({_marks(_ASKED)})", values)

    def asked(self) -> list[dict[str, Any]]:
        """The comparisons that have been asked for, the last one last."""
        texts = ("key", "setting", "asked")
        with self._errors():
            rows = self._db.execute(f"SELECT {', '.join(_ASKED)} FROM comparisons ORDER BY asked, rowid")
            found = [dict(zip(_ASKED, row, strict=True)) for row in rows]
        for row in found:
            try:
                row |= {name: json.loads(row[name]) for name in _ASKED if name not in texts}
            except (TypeError, ValueError) as error:
                raise self._damaged("comparisons", str(row["key"]), f"a comparison: {error}") from None
        return found

    def __len__(self) -> int:
        with self._errors():
            (number,) = self._db.execute("SELECT count(*) FROM runs").fetchone()
        return int(number)

    def table(self, setting: str | None = None, credits: bool = False) -> pd.DataFrame:
        """The rows of a setting, or of all, with all columns; credits only where asked for."""
        names = [name for name in _COLUMNS if credits or name != "credits"]
        query = f"SELECT {', '.join(chr(34) + name + chr(34) for name in names)} FROM runs"
        chosen = "" if setting is None else " WHERE setting = ?"
        with self._errors():
            rows = self._db.execute(query + chosen, [] if setting is None else [setting]).fetchall()
        for row in rows:
            self._check(dict(zip(names, row, strict=True)))
        table = pd.DataFrame(rows, columns=names)
        floats = [name for name, kind in RUN_COLUMNS.items() if kind is float]
        return table.astype(dict.fromkeys(floats, float))

    def row(self, run: str) -> dict[str, Any]:
        """All columns of a run, from its key or as many first characters of it as no other key has.

        Raises:
            ValueError: If there is no such run, or there are several.
        """
        names = list(_COLUMNS)
        query = f"SELECT {', '.join(chr(34) + name + chr(34) for name in names)} FROM runs"
        with self._errors():
            found = self._db.execute(f"{query} WHERE substr(key, 1, ?) = ?", [len(run), run]).fetchall()
        if not run or len(found) != 1:
            raise ValueError(
                f"run must be the key of a run in {self.path}, or as many first characters as no other key "
                f"has, got {run!r}, with which {len(found) or 'none'} of {len(self)} begin"
            )
        row = dict(zip(names, found[0], strict=True))
        self._check(row)
        return row

    def members(self, unit: str) -> list[tuple[str, int]]:
        """The attacks and seeds that were played side by side in a unit."""
        with self._errors():
            row = self._db.execute("SELECT members FROM units WHERE unit = ?", [unit]).fetchone()
        try:
            return [(attack, seed) for attack, seed in json.loads(row[0])]
        except (TypeError, ValueError) as error:
            raise DamagedError(f"{self.path}: unit {unit[:12]} in table units is damaged: {error}") from None

    def credits(self, key: str) -> dict[str, np.ndarray]:
        """Credits [rounds, n] of a run, and who was Byzantine; empty where its policy gives none."""
        names = [name for name in _COLUMNS if name in (*RUN, "credits")]
        with self._errors():
            row = self._db.execute(f"SELECT {', '.join(names)} FROM runs WHERE key = ?", [key]).fetchone()
        held = dict(zip(names, row, strict=True)) if row else {}
        try:
            return unpack(held["credits"]) if held.get("credits") else {}
        except (OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise self._damaged("runs", key, f"{_who(held)}: its credits: {error}") from None

    def _check(self, row: Mapping[str, Any]) -> None:
        """Raise a `DamagedError` unless a run's row is as it was written."""
        try:
            _check_row(row)
        except ValueError as error:
            raise self._damaged("runs", str(row["key"]), f"{_who(row)}: {error}") from None

    def _damaged(self, table: str, key: str, what: str) -> DamagedError:
        return DamagedError(
            f"{self.path} is damaged: {what}. The same command plays it again once it is gone: "
            f"DELETE FROM {table} WHERE key = '{key}'"
        )

    def merge(self, others: Iterable[str | Path]) -> None:
        """Take over the runs of other folders; finished ones win over failed ones."""
        for folder in others:
            with Store(folder) as other:
                uri = other._uri
            with self._errors():
                self._db.execute("ATTACH ? AS other", [uri])
                try:
                    with self._transaction():
                        self._db.execute("INSERT OR IGNORE INTO units SELECT * FROM other.units")
                        self._db.execute("INSERT OR IGNORE INTO comparisons SELECT * FROM other.comparisons")
                        # "WHERE true": or SQLite would read ON CONFLICT as part of a join
                        self._db.execute(
                            f"INSERT INTO runs SELECT * FROM other.runs WHERE true {_keep_done()}"
                        )
                finally:
                    self._db.execute("DETACH other")

    def clear(self) -> None:
        """Remove all runs."""
        with self._transaction():
            for name in ("runs", "units", "comparisons"):
                self._db.execute(f"DELETE FROM {name}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if not self.path.exists():
                raise OSError(_unusable(self.path.parent, error)) from None
            unfit = any(word in str(error) for word in ("open", "readonly", "I/O", "locking"))
            hint = "; its folder must be on a local disk, with room, and not write-protected" if unfit else ""
            raise OSError(f"cannot use {self.path}: {error}{hint}") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.path} is not a store of runs: {error}") from error


def pack(trace: Mapping[str, np.ndarray]) -> bytes | None:
    """Arrays as bytes, for a row; None where there are none."""
    if not trace:
        return None
    file = io.BytesIO()
    arrays: Any = trace
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def unpack(packed: bytes) -> dict[str, np.ndarray]:
    """The inverse of `pack`.

    Example:
        >>> unpack(pack({"credits": np.full((2, 2), 0.5)}))["credits"].tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        return dict(arrays)


def curve_text(points: Iterable[Mapping[str, Any]]) -> str:
    """The points of a curve as JSON: a list for each column."""
    points = list(points)
    columns = {name: [point[name] for point in points] for name in _CURVE}
    return json.dumps({k: [None if x != x else x for x in values] for k, values in columns.items()})


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """The points of the curves of all finished runs in a table, `CURVE_COLUMNS`."""
    done = table[table["status"] == "done"].reset_index(drop=True)
    points = pd.DataFrame([json.loads(text) for text in done["curve"]], columns=_CURVE)  # a list in each cell
    runs = done[[name for name in CURVE_COLUMNS if name not in _CURVE]]
    found = runs.join(points).explode(list(_CURVE), ignore_index=True)
    return found[list(CURVE_COLUMNS)].astype(CURVE_COLUMNS)


def _check_row(row: Mapping[str, Any]) -> None:
    """Raise a ValueError that names the first column of a run with something else than byzgym writes."""
    done = row["status"] == "done"
    for name in ("configuration", "versions", *(("threat_model", "curve") if done else ())):
        try:
            held = json.loads(row[name])
        except (TypeError, ValueError) as error:
            raise ValueError(f"its {name} is no JSON: {error}") from None
        if not isinstance(held, dict):
            raise ValueError(f"its {name} must be a mapping, got {shown(held)}")
        if name == "curve":
            points = [held[column] if isinstance(held.get(column), list) else [""] for column in _CURVE]
            numbers = all(
                value is None or isinstance(value, int | float) for part in points for value in part
            )
            if len(set(map(len, points))) > 1 or not numbers:
                raise ValueError("its curve must have a number or null for each point")
    for name, kind in RUN_COLUMNS.items() if done else ():
        allowed: Any = {str: str, float: int | float | None}.get(kind, int)
        if not isinstance(row[name], allowed):
            raise ValueError(f"its {name} must be a {kind.__name__}, got {shown(row[name])}")


def _who(row: Mapping[str, Any]) -> str:
    """Which run a row is."""
    return f"the run of {row['policy']} under {row['attack']}, f = {row['num_byzantine']}, seed {row['seed']}"


def _keep_done() -> str:
    names = ", ".join(f'"{name}" = excluded."{name}"' for name in list(_COLUMNS)[1:])
    return f"ON CONFLICT (key) DO UPDATE SET {names} WHERE runs.status = 'failed'"


def _marks(names: Sequence[str]) -> str:
    return ", ".join("?" * len(names))


def _unusable(folder: Any, why: Any) -> str:
    return f"out must be a folder that can be written to, got {folder}: {why}"
