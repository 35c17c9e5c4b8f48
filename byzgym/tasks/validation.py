"""A task for choosing parameters: accuracy is measured on validation samples, and test data do not exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from byzgym.tasks.base import Task
from byzgym.tasks.registry import make_from, registry

SHARE = 0.2
"""Of the training samples that become validation samples."""


@registry.built_in("validation")
def validation(task: str | Mapping[str, Any] | Task) -> Task:
    """Another task, in which validation samples take the place of the test set.

    They are a fifth of the training samples, drawn at random, always the same ones. Workers, the QV set and
    the reward have none of them. The test set of the other task is in no part of this one, so whoever chooses
    parameters by the accuracy in this task has not seen test data.

    Args:
        task: The other task: a name, a mapping with its parameters, or a `Task`.

    Raises:
        ValueError: If the other task is unknown, or has a single training sample.

    Example:
        >>> make_from("digits"), make_from("validation:digits")
        (Task(train=(1293, 1, 8, 8), test=360, num_classes=10, model='mlp:32'),
         Task(train=(1034, 1, 8, 8), test=259, num_classes=10, model='mlp:32'))
    """
    return _split(make_from(task))


@lru_cache(maxsize=1)
def _split(whole: Task) -> Task:
    x, y = whole.train
    if len(y) < 2:
        raise ValueError(f"task must have at least 2 training samples to split, got {len(y)}")
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0)).to(y.device)
    size = max(1, round(SHARE * len(y)))
    chosen, rest = order[:size].sort().values, order[size:].sort().values
    columns = {name: column[rest] for name, column in whole.columns.items()}
    return replace(whole, train=(x[rest], y[rest]), test=(x[chosen], y[chosen]), columns=columns)
