"""The runs of a store as a table in a file, or their threat-model records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from byzgym import files
from byzgym.experiments import threat_model
from byzgym.experiments.reading import read_all
from byzgym.experiments.results import RUN_COLUMNS
from byzgym.experiments.store import Store, curves

SUFFIXES = (".csv", ".parquet")
RECORDS = (".json", ".md")
"""Of files with threat-model records."""
_RECORD = ("status", "error", "code", "machine", "finished", "unit", "key")


def runs(store: Store) -> pd.DataFrame:
    """One row a run: what it gave, then its whole configuration, then what is known of the playing.

    Runs that failed are there with their errors and without numbers.
    """
    table = store.table()
    settings = pd.DataFrame([_flat(text) for text in table["configuration"]], index=table.index)
    settings = settings.drop(columns=[name for name in settings if name in RUN_COLUMNS or name in _RECORD])
    settings = settings.apply(_of_one_type)
    own = table[list(RUN_COLUMNS)].assign(diverged=table["diverged"].astype("boolean"))
    own["num_classes"] = own["num_classes"].astype("Int64")
    return pd.concat([own, settings, table[list(_RECORD)]], axis=1)


def points(store: Store) -> pd.DataFrame:
    """One row an evaluation, with the key of its run."""
    table = store.table()
    done = table[table["status"] == "done"]
    return pd.concat(
        [curves(done.iloc[[number]]).assign(key=key) for number, key in enumerate(done["key"])]
        or [curves(done).assign(key=[])],
        ignore_index=True,
    )


def records(store: Store) -> list[dict[str, Any]]:
    """The threat models of the finished runs of all settings, see `threat_model.records`."""
    return [entry for results in read_all(store) for entry in results.threat_models]


def check(path: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Raise an error unless a file of this name can be written.

    Raises:
        ValueError: If its suffix is none of ``suffixes``.
        ImportError: If it is Parquet and pyarrow is not installed.
    """
    if path.suffix not in suffixes:
        raise ValueError(f"the file must end in {' or '.join(suffixes)}, got {path}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ImportError(f'Parquet needs pyarrow: pip install "byzgym[parquet]" ({error})') from error


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table whole, as CSV or Parquet by the suffix.

    Raises:
        OSError: If the file cannot be written.
    """
    with files.write_whole(path) as temporary:
        if path.suffix == ".csv":
            table.to_csv(temporary, index=False, lineterminator="\n")
        else:
            table.to_parquet(temporary, index=False)


def write_records(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write threat-model records whole, as JSON or Markdown by the suffix.

    Raises:
        OSError: If the file cannot be written.
    """
    as_text = threat_model.as_json if path.suffix == ".json" else threat_model.as_markdown
    files.write_texts({path: as_text(entries)})


def _of_one_type(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column as text where some values are, such as a schedule beside a number: Parquet has one type."""
    known = column.dropna()
    if known.map(type).nunique() <= 1:
        return column
    return column.where(
        column.isna(), column.map(lambda value: value if isinstance(value, str) else str(value))
    )


def _flat(configuration: str) -> dict[str, object]:
    """Settings as values of a table: mappings, such as a schedule, as JSON."""
    held = json.loads(configuration)
    return {
        name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in held.items()
    }
