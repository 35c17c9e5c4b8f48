"""A task from a table in a CSV file."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzgym.ambient import shielded
from byzgym.tasks.base import Task, split_in_three
from byzgym.tasks.registry import registry
from byzgym.validation import check_int, check_real, shown, unknown

_MISSING = ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "?"]
_MOST_CATEGORIES = 1000


@registry.built_in("csv")
def csv(
    path: str | os.PathLike[str],
    label: str,
    test_fraction: float = 0.2,
    seed: int = 0,
    delimiter: str = ",",
) -> Task:
    """A table from a CSV file, whose first line names the columns: one is the label, the others are features.

    - Classes are the different labels in sorted order, numbers by value. Rows without a label are left out.
    - A stratified ``test_fraction`` of the rows is the test set, a tenth of the rest is held out for
      quasi-validation (see `Task`), the remainder is for training.
    - Columns of numbers become one feature each, standardised with the mean and standard deviation of the
      training rows. A missing number becomes their mean.
    - Columns of text become one feature for each text that training rows hold, 1 in rows with that text and
      0 elsewhere. A missing text, and one that no training row holds, is 0 in all of them.
    - Missing in these is what is empty, NA, N/A, NaN, null, None or a question mark.
    - The partition `by_column` can divide the rows by every column of at most 1,000 different values.

    Args:
        path: The file. It is read once, and again when it has changed.
        label: The column with the labels.
        test_fraction: Share of the test set, greater than 0 and less than 1.
        seed: Decides which rows are test rows, at least 0.
        delimiter: What separates columns.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no such table, columns share a name, there is no such column, there are
            fewer than two classes or a class has a single row, the test set or the rest would have fewer
            rows than there are classes, or a column holds numbers that are infinite in float32 or more than
            1,000 different texts.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "mine.csv")
        >>> rows = [f"{i},{'red' if i % 3 else 'blue'},{'yes' if i > 20 else 'no'}" for i in range(40)]
        >>> _ = path.write_text("\\n".join(["size,color,bought", *rows]))
        >>> csv(path, label="bought")
        Task(train=(22, 3), test=8, num_classes=2, model='mlp:32')

        At the command line: ``--task csv:path=/data/mine.csv,label=bought``.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path must be a string or a path, got {shown(path)}")
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise ValueError(f"delimiter must be one character, got {shown(delimiter)}")
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise FileNotFoundError(f"path must be an existing file, got {str(path)!r}")
    check_real("test_fraction", test_fraction, above=0)
    if test_fraction >= 1:
        raise ValueError(f"test_fraction must be less than 1, got {test_fraction}")
    seed = check_int("seed", seed, 0, 2**32 - 1)
    return _load(file, file.stat().st_mtime_ns, str(label), test_fraction, seed, delimiter)


@lru_cache(maxsize=4)
@shielded
def _load(file: Path, changed: int, label: str, test_fraction: float, seed: int, delimiter: str) -> Task:
    table, labels = _read(file, label, delimiter)
    classes, y = np.unique(labels, return_inverse=True)
    counts = np.bincount(y)
    if len(classes) < 2 or counts.min() < 2:
        raise ValueError(
            f"column {label!r} of {file} must hold at least two labels, each in at least two rows, "
            f"got {len(classes)} of them, {classes.tolist()[counts.argmin()]!r} in {counts.min()}"
        )
    try:
        train, held_out, test = split_in_three(y, test_fraction, seed)
    except ValueError as error:
        raise ValueError(
            f"test_fraction={test_fraction} does not suit the labels in column {label!r} of {file}: {error}"
        ) from None
    features = [_encoded(table[name], train, f"column {name!r} of {file}") for name in table]
    x = torch.from_numpy(np.concatenate(features, axis=1))
    columns = {name: numbers for name in table if (numbers := _numbered(table[name].iloc[train])) is not None}

    def samples(rows: Any) -> tuple[Tensor, Tensor]:
        return x[rows], torch.from_numpy(y)[rows]

    return Task(samples(train), samples(test), len(classes), "mlp:32", samples(held_out), columns=columns)


def _read(file: Path, label: str, delimiter: str) -> tuple[Any, np.ndarray]:
    """The table of features and the labels, without the rows that have no label."""
    import pandas as pd

    form: dict[str, Any] = {"sep": delimiter, "skipinitialspace": True, "index_col": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # every row is longer than the header
            header = pd.read_csv(file, header=None, nrows=1, dtype=str, na_filter=False, **form)
            names = pd.read_csv(file, nrows=0, **form).columns
            if label in names:
                missing: dict[Any, Any] = {name: _MISSING for name in names if name != label}
                missing[len(names)] = _MISSING  # the column behind a delimiter at the end of each line
                form |= {"dtype": {label: str}, "na_values": missing, "keep_default_na": False}
                table = pd.read_csv(file, low_memory=False, **form)
    except (ValueError, pd.errors.ParserWarning) as error:  # or no columns, another encoding
        raise ValueError(f"{file} cannot be read as a CSV file: {str(error).strip()}") from None
    # pandas renames the second "y" to "y.1".
    repeated = [name for name, count in Counter(header.iloc[0]).items() if name and count > 1]
    if repeated:
        raise ValueError(f"columns of {file} must have different names, got more than one {shown(repeated)}")
    if label not in names:
        raise unknown(f"column of {file} (with delimiter {delimiter!r})", label, names)
    labels = table.pop(label).astype(object).str.strip()
    try:
        labels = pd.to_numeric(labels)
    except ValueError:
        labels = labels.where(labels != "")
    table, labels = table[labels.notna()], labels.dropna()
    if table.empty:
        raise ValueError(f"{file} must have a column beside {label!r} and a row with a label, got none")
    return table, labels.to_numpy()


def _encoded(column: Any, train: np.ndarray, name: str) -> np.ndarray:
    """The features [N, k] made of a column [N], by what its rows ``train`` hold."""
    from pandas.api.types import is_numeric_dtype

    if is_numeric_dtype(column):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)[:, None]
        largest = float(np.finfo(np.float32).max)
        if (np.abs(values) > largest).any():
            raise ValueError(
                f"{name} must hold finite numbers up to {largest:.3g}, got {np.nanmax(np.abs(values))}"
            )
        known = values[train][~np.isnan(values[train])]
        varied = len(known) > 1 and known.min() < known.max()
        mean, std = known.mean() if len(known) else 0.0, known.std(ddof=1) if varied else 1.0
        return np.nan_to_num((values - mean) / std)
    texts = column.astype(str).where(column.notna()).to_numpy(dtype=object)[:, None]
    categories = sorted({text for text in texts[train, 0] if isinstance(text, str)})
    if len(categories) > _MOST_CATEGORIES:
        raise ValueError(
            f"{name} must hold at most {_MOST_CATEGORIES} different texts, got {len(categories)}"
        )
    return texts == np.array(categories, dtype=object)


def _numbered(column: Any) -> Tensor | None:
    """The different values of a column [N], numbered in sorted order; None where there are too many."""
    import pandas as pd

    numbers, values = pd.factorize(column, sort=True, use_na_sentinel=False)
    return None if len(values) > _MOST_CATEGORIES else torch.from_numpy(numbers)
