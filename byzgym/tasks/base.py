"""What a task is."""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzgym.ambient import shielded
from byzgym.validation import check_int, check_real, shown, unknown


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """A classification problem: data, and the defaults with which a model is trained on it.

    Inputs and labels may be tensors, numpy arrays or lists of any integer or float type; they are stored as
    float32 and int64 tensors. Many environments share a task: it is frozen, its tensors must never be written
    to, and `copy.deepcopy` returns the task itself. ``dataclasses.replace(task, batch_size=8)`` gives a
    changed one.

    Args:
        train: Inputs [N, *shape], finite, and labels [N] in 0..num_classes-1; partitioned among the workers.
        test: The same for the test set, from which nothing but the reported metrics is computed.
        num_classes: Number of classes, at least 2.
        model: Default model, as `byzgym.tasks.models.build` understands it.
        held_out: Samples from which the server may draw its quasi-validation set. If None, 10 % of ``train``
            (or 10 samples, at most half, where that is more) are split off, always the same ones.
        batch_size: Default number of samples a worker draws each round, at least 1.
        learning_rate: Default step size of the server, greater than 0.
        columns: What else is known of the samples in ``train``: integers [N] by name, such as the number of
            the state that a patient lives in. No model sees them; the partition `by_column` divides by them.

    Raises:
        ValueError: If an argument is out of its range, a set is empty, its lengths differ, its inputs are not
            finite or its labels no classes, the sets' input shapes differ, or a column is not one integer for
            each training sample.
        TypeError: If a set is not a pair of arrays of numbers, or columns are no mapping.

    Example:
        >>> x = [[0.0, 1.0], [1.0, 0.0], [0.9, 0.1], [0.2, 0.8]]
        >>> Task(train=(x, [0, 1, 1, 0]), test=(x, [0, 1, 1, 0]), num_classes=2, model="softmax")
        Task(train=(2, 2), test=4, num_classes=2, model='softmax')
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    num_classes: int
    model: str = "mlp:32"
    held_out: tuple[Tensor, Tensor] | None = None
    batch_size: int = 32
    learning_rate: float = 0.1
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    _moved: dict[torch.device, Task] = field(init=False, default_factory=dict)

    @shielded
    def __post_init__(self) -> None:
        check_int("num_classes", self.num_classes, 2)
        check_int("batch_size", self.batch_size, 1)
        check_real("learning_rate", self.learning_rate, above=0)
        if not isinstance(self.model, str) or not self.model:
            raise ValueError(f"model must be a non-empty string such as 'mlp:32', got {shown(self.model)}")
        train = _samples("train", self.train, self.num_classes)
        test = _samples("test", self.test, self.num_classes)
        columns = _columns(self.columns, len(train[1]))
        if self.held_out is None:
            columns = {name: split_held_out(values, values)[0][0] for name, values in columns.items()}
            train, held_out = split_held_out(*train)
        else:
            held_out = _samples("held_out", self.held_out, self.num_classes)
        for name, samples in (("test", test), ("held_out", held_out)):
            if samples[0].shape[1:] != train[0].shape[1:]:
                raise ValueError(
                    f"{name} must have inputs of the shape of train, {tuple(train[0].shape[1:])}, "
                    f"got {tuple(samples[0].shape[1:])}"
                )
        changed = {"train": train, "test": test, "held_out": held_out, "columns": columns}
        for name, value in changed.items():
            object.__setattr__(self, name, value)  # a frozen dataclass allows its own conversion only so

    def __repr__(self) -> str:
        return (
            f"Task(train={tuple(self.train[0].shape)}, test={len(self.test[1])}, "
            f"num_classes={self.num_classes}, model={self.model!r})"
        )

    def __copy__(self) -> Task:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Task:
        return self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the number of samples."""
        return tuple(self.train[0].shape[1:])

    def column(self, name: str) -> Tensor:
        """The column of the training samples with this name, int64 [N]; a ValueError lists the known ones."""
        if name not in self.columns:
            raise unknown("column of the task", name, self.columns or ["none"])
        return self.columns[name]

    @shielded
    def to(self, device: torch.device | str) -> Task:
        """This task with its tensors on ``device``.

        The copy is made at the first call and then shared, so that many environments on one accelerator hold
        one data set; a task that is already there is returned as it is.
        """
        device = torch.device(device)
        sets = {"train": self.train, "test": self.test, "held_out": self.held_out or ()}
        if all(_is_on(tensor, device) for pair in sets.values() for tensor in pair):
            return self
        if device not in self._moved:
            moved = object.__new__(Task)  # not dataclasses.replace, which would check all data again
            vars(moved).update(vars(self), _moved={})
            vars(moved).update({name: tuple(t.to(device) for t in pair) for name, pair in sets.items()})
            vars(moved)["columns"] = {name: column.to(device) for name, column in self.columns.items()}
            self._moved[device] = moved
        return self._moved[device]

    def with_held_out(self, x: Tensor, y: Tensor) -> Task:
        """This task with another held-out set, part of its own: inputs x [N, ...] and labels y [N]."""
        return self._with(held_out=(x, y))

    def without_test(self) -> Task:
        """This task as a QV source may see it: its test set is empty."""
        x, y = self.test
        return self._with(test=(x[:0], y[:0]))

    def _with(self, **parts: tuple[Tensor, Tensor]) -> Task:
        changed: Task = object.__new__(Task)  # not dataclasses.replace, which would check all data again
        vars(changed).update(vars(self), **parts, _moved={})
        return changed


def split_held_out(x: Tensor, y: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Split 10 % of samples [N, ...] off at random, or 10 of them (at most half) where that is more.

    They are always the same ones. Both parts keep the order of the samples.
    """
    count = len(x)
    if count < 2:
        raise ValueError(f"train must have at least 2 samples when held_out is None, got {count}")
    # Ten samples are what a quasi-validation set usually has (GAA paper), so a small set gives as many.
    size = max(round(0.1 * count), min(10, count // 2))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).to(x.device)
    keep, out = order[size:].sort().values, order[:size].sort().values
    return (x[keep], y[keep]), (x[out], y[out])


def split_stratified(
    labels: np.ndarray, fraction: float = 0.2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Split samples with labels [N] at random, so that both parts hold the classes in the same proportions.

    Returns:
        The numbers of the samples in each part; the second has the given share.

    Raises:
        ValueError: If a class has one sample only, or a part would be smaller than the number of classes.
    """
    count, (classes, sizes) = len(labels), np.unique(labels, return_counts=True)
    if sizes.min() < 2:
        raise ValueError(f"each class must have at least 2 samples, got 1 of {classes[sizes.argmin()]}")
    if not len(classes) <= math.ceil(fraction * count) <= count - len(classes):
        low, high = (len(classes) - 1) / count, 1 - len(classes) / count
        raise ValueError(
            f"with {count} samples of {len(classes)} classes, the share that is split off must be greater "
            f"than {low:.4g} and at most {high:.4g}, so that both parts can hold each class, got {fraction}"
        )
    split = import_sklearn("model_selection").train_test_split
    first, second = split(np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=seed)
    return first, second


def split_in_three(
    labels: np.ndarray, test_fraction: float = 0.2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers of training, held-out and test samples, given labels [N].

    The test set is split off as by `split_stratified`, the held-out set from the rest as by `split_held_out`.
    """
    rest, test = split_stratified(labels, test_fraction, seed)
    numbers = torch.from_numpy(rest)
    (train, _), (held_out, _) = split_held_out(numbers, numbers)
    return train.numpy(), held_out.numpy(), test


def import_sklearn(module: str) -> Any:
    """A module of scikit-learn, whose first import takes a second and draws from Python's generator."""
    state = random.getstate()
    try:
        return importlib.import_module(f"sklearn.{module}")
    finally:
        random.setstate(state)


def import_torchvision(module: str, otherwise: str) -> Any:
    """A module of torchvision; a RuntimeError says what to do, or ``otherwise``, where it does not work."""
    try:
        return importlib.import_module(f"torchvision.{module}")
    except Exception as error:  # a build for another torch fails with whatever its extension raises
        raise RuntimeError(
            f"torchvision could not be imported: {error}; install the torchvision built for the installed "
            f"torch ({torch.__version__}), or {otherwise}"
        ) from None


def _samples(name: str, pair: Any, num_classes: int) -> tuple[Tensor, Tensor]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"{name} must be a pair (inputs, labels), got {type(pair).__name__}")
    x = _tensor(f"the inputs of {name}", pair[0], torch.float32)
    y = _labels(f"the labels of {name}", pair[1], num_classes)
    if x.ndim < 2:
        raise ValueError(f"the inputs of {name} must have shape [N, ...], got {tuple(x.shape)}")
    if len(x) != len(y):
        raise ValueError(f"{name} must have as many inputs as labels, got {len(x)} and {len(y)}")
    if x.numel() == 0:
        raise ValueError(f"{name} must not be empty, got inputs of shape {tuple(x.shape)}")
    if not bool(x.isfinite().all()):
        raise ValueError(f"the inputs of {name} must be finite (in float32), got NaN or infinite values")
    return x, y


def _columns(columns: Any, count: int) -> dict[str, Tensor]:
    if not isinstance(columns, Mapping):
        raise TypeError(f"columns must map names to integers, got {type(columns).__name__}")
    checked = {}
    for key, values in columns.items():
        name = f"column {key!r}"
        given = _tensor(name, values, None)
        whole = given.to(torch.int64)
        if not isinstance(key, str) or whole.shape != (count,) or bool((whole != given).any()):
            raise ValueError(
                f"columns must be named integers, one for each of {count} training samples, got "
                f"{given.dtype} of shape {tuple(given.shape)} named {shown(key)}"
            )
        checked[key] = whole
    return checked


def _labels(name: str, values: Any, num_classes: int) -> Tensor:
    given = _tensor(name, values, None)
    labels = given.to(torch.int64)
    if labels.ndim != 1:
        raise ValueError(f"{name} must have shape [N], got {tuple(labels.shape)}")
    wrong = (labels != given) | (labels < 0) | (labels >= num_classes)
    if bool(wrong.any()):
        raise ValueError(
            f"{name} must be integers from 0 to {num_classes - 1} (num_classes is {num_classes}), "
            f"got {given[wrong][0].item()}"
        )
    return labels


def _tensor(name: str, values: Any, dtype: torch.dtype | None) -> Tensor:
    """Convert to ``dtype``, or, if None, to whatever type of tensor holds the values."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array; fill or drop what is masked")
    if not isinstance(values, Tensor):
        try:
            array = np.asarray(values)
        except ValueError:  # rows of different lengths
            array = np.asarray(None)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} must be integers or floats, got {shown(values)}")
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)  # torch computes little with wide unsigned integers
        # torch warns of read-only memory and refuses foreign byte orders and negative strides
        native = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
        values = torch.from_numpy(native)
    if values.is_complex() or values.layout != torch.strided:
        raise TypeError(
            f"{name} must be integers or floats in a dense tensor, got {values.dtype} in {values.layout}"
        )
    values = values.clone() if values.is_inference() else values.detach()  # it must outlive inference mode
    return values if dtype is None else values.to(dtype)


def _is_on(tensor: Tensor, device: torch.device) -> bool:
    # "cuda" without an index stands for whichever cuda device is current
    return tensor.device.type == device.type and device.index in (None, tensor.device.index)
