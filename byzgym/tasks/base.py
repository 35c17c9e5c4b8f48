"""What a task is."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzgym.validation import check_int, check_real

HELD_OUT_FRACTION = 0.1
_SPLIT_SEED = 0


@dataclass(frozen=True, eq=False)
class Task:
    """A classification problem: data, and the defaults with which a model is trained on it.

    Inputs and labels may be tensors, numpy arrays or lists of any integer or float type; they are stored as
    float32 and int64 tensors. A task may be shared by many environments: it is frozen and its tensors must
    never be written to. ``dataclasses.replace(task, batch_size=8)`` gives a changed one.

    Args:
        train: Inputs [N, *shape], finite, and labels [N] in 0..num_classes-1; partitioned among the workers.
        test: The same for the test set, from which nothing but the reported metrics is computed.
        num_classes: Number of classes, at least 2.
        model: Default model, as `byzgym.tasks.models.build` understands it.
        held_out: Samples from which the server may draw its quasi-validation set. If None, 10 % of ``train``
            (or 10 samples, at most half, where that is more) are split off, always the same ones.
        batch_size: Default number of samples a worker draws each round, at least 1.
        learning_rate: Default step size of the server, greater than 0.

    Raises:
        ValueError: If an argument is out of its range, a set is empty, its lengths differ, its inputs are not
            finite or its labels no classes, or the sets' input shapes differ.
        TypeError: If a set is not a pair of arrays of numbers.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    num_classes: int
    model: str = "mlp:32"
    held_out: tuple[Tensor, Tensor] | None = None
    batch_size: int = 32
    learning_rate: float = 0.1
    _moved: dict[torch.device, Task] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        check_int("num_classes", self.num_classes, 2)
        check_int("batch_size", self.batch_size, 1)
        check_real("learning_rate", self.learning_rate, above=0)
        if not isinstance(self.model, str) or not self.model:
            raise ValueError(f"model must be a non-empty string such as 'mlp:32', got {self.model!r}")
        train = _samples("train", self.train, self.num_classes)
        test = _samples("test", self.test, self.num_classes)
        if self.held_out is None:
            train, held_out = split_held_out(*train)
        else:
            held_out = _samples("held_out", self.held_out, self.num_classes)
        for name, samples in (("test", test), ("held_out", held_out)):
            if samples[0].shape[1:] != train[0].shape[1:]:
                raise ValueError(
                    f"{name} must have inputs of the shape of train, {tuple(train[0].shape[1:])}, "
                    f"got {tuple(samples[0].shape[1:])}"
                )
        for name, value in (("train", train), ("test", test), ("held_out", held_out)):
            object.__setattr__(self, name, value)  # a frozen dataclass allows its own conversion only so

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the number of samples."""
        return tuple(self.train[0].shape[1:])

    def to(self, device: torch.device | str) -> Task:
        """This task with its tensors on ``device``.

        The copy is made at the first call and then shared, so that many environments on one accelerator hold
        one data set; a task that is already there is returned as it is.
        """
        device = torch.device(device)
        if all(_is_on(tensor, device) for tensor in self._tensors()):
            return self
        if device not in self._moved:
            self._moved[device] = self._copy_to(device)
        return self._moved[device]

    def _tensors(self) -> list[Tensor]:
        assert self.held_out is not None  # __post_init__ has split it off
        return [*self.train, *self.test, *self.held_out]

    def _copy_to(self, device: torch.device) -> Task:
        moved = copy.copy(self)  # not dataclasses.replace, which would check all data again
        tensors = [tensor.to(device) for tensor in self._tensors()]
        for name, start in (("train", 0), ("test", 2), ("held_out", 4)):
            object.__setattr__(moved, name, tuple(tensors[start : start + 2]))
        object.__setattr__(moved, "_moved", {})
        return moved


def split_held_out(x: Tensor, y: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Split 10 % off at random, or 10 samples (at most half) where that is more; always the same ones.

    Args:
        x: Inputs, shape [N, ...], N at least 2.
        y: Labels, shape [N].

    Returns:
        The training set and the held-out set; both keep the order of the samples.

    Raises:
        ValueError: If there is only one sample.
    """
    count = len(x)
    if count < 2:
        raise ValueError(f"train must have at least 2 samples when held_out is None, got {count}")
    # Ten samples are what a quasi-validation set usually has (GAA paper), so a small set gives as many.
    size = max(round(HELD_OUT_FRACTION * count), min(10, count // 2))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_SPLIT_SEED)).to(x.device)
    keep, out = order[size:].sort().values, order[:size].sort().values
    return (x[keep], y[keep]), (x[out], y[out])


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
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} must be integers or floats, got an array of {array.dtype}")
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)  # torch computes little with wide unsigned integers
        # torch warns of read-only memory and refuses foreign byte orders and negative strides
        native = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
        values = torch.from_numpy(native)
    if values.is_complex():
        raise TypeError(f"{name} must be integers or floats, got a tensor of {values.dtype}")
    return values.detach() if dtype is None else values.detach().to(dtype)


def _is_on(tensor: Tensor, device: torch.device) -> bool:
    # "cuda" without an index stands for whichever cuda device is current
    return tensor.device.type == device.type and device.index in (None, tensor.device.index)
