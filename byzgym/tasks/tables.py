"""What tasks from a table with known columns share: where its file is, and what its columns may hold."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from byzgym.tasks.base import split_in_three
from byzgym.validation import shown

ROOT_VARIABLE = "BYZGYM_DATA_ROOT"
"""The environment variable that names the folder of all data sets."""


def folder_of(root: str | os.PathLike[str] | None, otherwise: str = "") -> Path:
    """The folder ``root``; where it is None, the one that the variable BYZGYM_DATA_ROOT names.

    Raises:
        ValueError: If there is neither; ``otherwise`` says what else the user can do.
    """
    given = root if root is not None else os.environ.get(ROOT_VARIABLE)
    if not given or not isinstance(given, str | os.PathLike):
        raise ValueError(
            f"root must be the folder of the data, got {shown(root)}; pass root=...{otherwise} to the task "
            f"or set the environment variable {ROOT_VARIABLE}"
        )
    return Path(given).expanduser().resolve()


def find(path: str | os.PathLike[str] | None, root: str | os.PathLike[str] | None, usual: str) -> Path:
    """The file ``path``, or, where it is None, the file ``usual`` in the folder of the data.

    Raises:
        ValueError: If no folder is given either, or ``path`` is no path.
        FileNotFoundError: If there is no such file.
    """
    if path is not None and not isinstance(path, str | os.PathLike):
        raise ValueError(f"path must be a string or a path, got {shown(path)}")
    file = Path(path).expanduser().resolve() if path is not None else folder_of(root, " or path=...") / usual
    if not file.is_file():
        name = "path" if path is not None else f"root (which must hold {usual})"
        raise FileNotFoundError(f"{name}: there is no file {str(file)!r}")
    return file


def read(file: Path, needed: Iterable[str], optional: Iterable[str] = (), text: Iterable[str] = ()) -> Any:
    """The columns ``needed`` of a CSV file, and of ``optional`` those that it has, as a data frame.

    Columns of ``text`` are read as they are, an empty one as ""; the others as numbers where they are some.

    Raises:
        ValueError: If the file is no such table, lacks a column or has no rows.
    """
    import pandas as pd

    needed, texts = list(needed), dict.fromkeys(text, str)
    try:
        header = list(pd.read_csv(file, nrows=0).columns)
        missing = [name for name in needed if name not in header]
        if not missing:
            columns = [*needed, *(name for name in optional if name in header)]
            missing_values = {name: [""] for name in columns if name not in texts}
            form: Any = {"dtype": texts, "na_values": missing_values, "keep_default_na": False}
            table = pd.read_csv(file, usecols=columns, low_memory=False, **form)
    except ValueError as error:  # no columns, rows of different lengths, another encoding
        raise ValueError(f"{file} cannot be read as a CSV file: {str(error).strip()}") from None
    if missing:
        raise ValueError(
            f"{file} must have the columns {', '.join(needed)}; it lacks {', '.join(missing)}, "
            f"got {shown(header)}"
        )
    if table.empty:
        raise ValueError(f"{file} must have at least one row, got none")
    return table


def codes(table: Any, name: str, allowed: Collection[Any], file: Path) -> np.ndarray:
    """A column [N] whose values must be among those ``allowed``; a ValueError names the first other one."""
    import pandas as pd

    column = table[name]
    # One text among numbers makes a column of texts.
    values = column if isinstance(next(iter(allowed)), str) else pd.to_numeric(column, errors="coerce")
    wrong = ~values.isin(list(allowed))
    if wrong.any():
        raise ValueError(
            f"column {name} of {file} must hold one of {', '.join(map(str, allowed))}, "
            f"got {_first(column, wrong)}"
        )
    return values.to_numpy()


def reals(table: Any, name: str, file: Path) -> np.ndarray:
    """A column [N] of finite numbers, in double precision; a ValueError names the first other value."""
    import pandas as pd

    column = table[name]
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~np.isfinite(values)
    if wrong.any():
        raise ValueError(f"column {name} of {file} must hold finite numbers, got {_first(column, wrong)}")
    return values


def integers(table: Any, name: str, low: int, high: int, file: Path) -> np.ndarray:
    """A column [N] of whole numbers from ``low`` to ``high``; a ValueError names the first other value."""
    import pandas as pd

    column = table[name]
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~((values >= low) & (values <= high) & (values == np.floor(values)))
    if wrong.any():
        raise ValueError(
            f"column {name} of {file} must hold integers from {low} to {high}, got {_first(column, wrong)}"
        )
    return values.astype(np.int64)


def split(
    y: np.ndarray, num_classes: int, label: str, file: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers of training, held-out and test rows, given classes [N].

    Raises:
        ValueError: If there are too few rows of a class.
    """
    counts = np.bincount(y, minlength=num_classes)
    try:
        if counts.min() < 2:
            raise ValueError("a class has less than two rows")
        return split_in_three(y)
    except ValueError as error:
        raise ValueError(
            f"{file} has too few rows for label={label!r}, {counts.tolist()} of the classes: {error}"
        ) from None


def _first(column: Any, wrong: Any) -> str:
    row = int(np.flatnonzero(wrong)[0])
    value = column.iloc[row]
    return f"{shown(value.item() if isinstance(value, np.generic) else value)} in row {row + 1}"
