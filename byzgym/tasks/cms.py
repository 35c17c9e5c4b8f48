"""Public healthcare: who has a chronic condition, from a file of Medicare beneficiaries."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzgym.ambient import shielded
from byzgym.tasks import tables
from byzgym.tasks.base import Task
from byzgym.tasks.registry import registry
from byzgym.validation import check_choice

CONDITIONS = (
    *("SP_ALZHDMTA", "SP_CHF", "SP_CHRNKIDN", "SP_CNCR", "SP_COPD", "SP_DEPRESSN", "SP_DIABETES"),
    *("SP_ISCHMCHT", "SP_OSTEOPRS", "SP_RA_OA", "SP_STRKETIA"),
)
_MONTHS = (
    *("BENE_HI_CVRAGE_TOT_MONS", "BENE_SMI_CVRAGE_TOT_MONS", "BENE_HMO_CVRAGE_TOT_MONS"),
    "PLAN_CVRG_MOS_NUM",
)
_MONEY = tuple(f"{kind}_{part}" for part in ("IP", "OP", "CAR") for kind in ("MEDREIMB", "BENRES", "PPPYMT"))
_CODES: dict[str, tuple[Any, ...]] = {
    "BENE_SEX_IDENT_CD": (1, 2),
    "BENE_RACE_CD": (1, 2, 3, 5),
    "BENE_ESRD_IND": ("0", "Y"),
}
_DATES = ("BENE_BIRTH_DT", "BENE_DEATH_DT")
_STATE = "SP_STATE_CODE"
_DAYS = (18500101, 20991231)
"""The first and the last day that a date may be."""


@registry.built_in("cms")
def cms(
    path: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    label: str = "SP_DIABETES",
) -> Task:
    """CMS: whether a Medicare beneficiary has a chronic condition, from the other columns; 30 features.

    The file is the beneficiary summary of the synthetic public-use files DE-SynPUF, in CSV. Its columns:

    - SP_ALZHDMTA, SP_CHF, SP_CHRNKIDN, SP_CNCR, SP_COPD, SP_DEPRESSN, SP_DIABETES, SP_ISCHMCHT, SP_OSTEOPRS,
      SP_RA_OA, SP_STRKETIA: chronic conditions, 1 is yes and 2 is no. One of them is the label (class 1 is
      yes), the others are features.
    - BENE_BIRTH_DT and BENE_DEATH_DT, as 19430101: the year of birth, and whether there is a date of death.
    - BENE_SEX_IDENT_CD (1, 2), BENE_RACE_CD (1, 2, 3, 5) and BENE_ESRD_IND (0, Y): a feature for each but the
      first code.
    - BENE_HI_CVRAGE_TOT_MONS, BENE_SMI_CVRAGE_TOT_MONS, BENE_HMO_CVRAGE_TOT_MONS and PLAN_CVRG_MOS_NUM:
      months of coverage.
    - MEDREIMB, BENRES and PPPYMT, each with _IP, _OP and _CAR: dollars, as sign(x) log(1 + abs(x)).
    - SP_STATE_CODE: no feature. ``partition="by_column:SP_STATE_CODE"`` gives each worker whole states, so
      that their data differ as those of real hospitals do. Sex and race can divide them in the same way.

    Other columns are not read. A stratified fifth of the rows is the test set, a tenth of the rest is held
    out. Features are standardised with the mean and standard deviation of the training rows.

    Args:
        path: The file. Where None, it is cms/beneficiary_2008.csv in ``root``.
        root: The folder of the data. Where None, the environment variable BYZGYM_DATA_ROOT names it.
        label: The condition to predict.

    Raises:
        ValueError: If no file is given, it is no such table, lacks a column or holds a value that is not
            allowed in its column, or a class has fewer than two rows.
        FileNotFoundError: If there is no such file.

    Source: Centers for Medicare & Medicaid Services, 2008-2010 Data Entrepreneurs' Synthetic Public Use File
    (https://www.cms.gov/data-research/statistics-trends-and-reports/medicare-claims-synthetic-public-use-files),
    one of the four case studies of Pan et al. 2020, "Justinian's GAAvernor".

    Example:
        At the command line: ``--task cms:root=/data --partition by_column:SP_STATE_CODE``.
    """
    check_choice("label", label, CONDITIONS)
    file = tables.find(path, root, "cms/beneficiary_2008.csv")
    return _load(file, file.stat().st_mtime_ns, label)


@lru_cache(maxsize=2)
@shielded
def _load(file: Path, changed: int, label: str) -> Task:
    needed = [*_DATES, *_CODES, _STATE, *_MONTHS, *_MONEY, *CONDITIONS]
    table = tables.read(file, needed, text=["BENE_ESRD_IND", "BENE_DEATH_DT"])
    y = (tables.codes(table, label, (1, 2), file) == 1).astype(np.int64)
    train, held_out, test = tables.split(y, 2, label, file)
    features = np.stack(_features(table, label, file), axis=1)  # [N, 30]
    mean, std = features[train].mean(0), features[train].std(0)
    x = torch.from_numpy(((features - mean) / np.where(std > 0, std, 1)).astype(np.float32))
    labels = torch.from_numpy(y)

    def samples(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        return x[rows], labels[rows]

    states = tables.integers(table, _STATE, 1, 99, file)
    columns = {name: table[name].to_numpy()[train] for name in ("BENE_SEX_IDENT_CD", "BENE_RACE_CD")}
    columns[_STATE] = states[train]
    return Task(samples(train), samples(test), 2, "mlp:32", samples(held_out), columns=columns)


def _features(table: Any, label: str, file: Path) -> list[np.ndarray]:
    """The features, each [N]."""
    born = tables.integers(table, "BENE_BIRTH_DT", *_DAYS, file)
    dead = (table["BENE_DEATH_DT"] != "").to_numpy()
    tables.integers(table[["BENE_DEATH_DT"]].replace("", _DAYS[0]), "BENE_DEATH_DT", *_DAYS, file)
    columns = [born // 10_000, dead]
    for name, allowed in _CODES.items():
        given = tables.codes(table, name, allowed, file)
        columns += [given == code for code in allowed[1:]]
    columns += [tables.reals(table, name, file) for name in _MONTHS]
    for name in _MONEY:
        dollars = tables.reals(table, name, file)
        columns.append(np.sign(dollars) * np.log1p(np.abs(dollars)))
    columns += [tables.codes(table, name, (1, 2), file) == 1 for name in CONDITIONS if name != label]
    return [column.astype(np.float64) for column in columns]
