"""Where the server's quasi-validation (QV) set comes from: a few samples of the same or a similar domain.

A source is a callable ``(task, qv_size, generator) -> (x [q, *shape], y [q])``. It draws without replacement,
and never from the test set, which would make the reported metrics meaningless. Pan et al. 2020, "Justinian's
GAAvernor" (https://www.usenix.org/conference/usenixsecurity20/presentation/pan), describe what a server may
have: usually 10 samples of a validation or training set, or of a public data set of a similar domain.

A source with the attribute ``uses_held_out = False`` takes nothing from the held-out set of the task that it
is given, so that all of it can be reward samples.

Example:
    >>> task, generator = make_task("digits"), torch.Generator().manual_seed(0)
    >>> x, y = make("noise", std=0.1)(task, 10, generator)
    >>> x.shape, y.shape
    (torch.Size([10, 1, 8, 8]), torch.Size([10]))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from byzgym.registry import Registry, describe, is_callable
from byzgym.tasks.base import Task
from byzgym.tasks.registry import make_from as make_task
from byzgym.validation import check_int, check_real

Source = Callable[[Task, int, torch.Generator], tuple[Tensor, Tensor]]

registry: Registry[Source] = Registry("quasi-validation source", is_callable, "a callable")
names = registry.names
register = registry.register
make = registry.make
make_from = registry.make_from


@registry.built_in("held_out")
class HeldOut:
    """Samples of the task that no worker has."""

    uses_held_out = True

    def __call__(self, task: Task, qv_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw, see the module; a ValueError if ``qv_size`` exceeds the held-out set."""
        assert task.held_out is not None  # a task without one splits it off its training set
        return _draw("the held-out set", task.held_out, qv_size, generator)


@registry.built_in("train")
class Train:
    """Samples of the training set, which workers may hold too."""

    uses_held_out = False

    def __call__(self, task: Task, qv_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw, see the module; a ValueError if ``qv_size`` exceeds the training set."""
        return _draw("the training set", task.train, qv_size, generator)


@registry.built_in("noise")
class Noise(HeldOut):
    """Held-out samples with Gaussian noise added: a similar domain of worse quality.

    Args:
        std: Standard deviation of the noise in units of the inputs, at least 0.
    """

    def __init__(self, std: float = 0.5) -> None:
        self.std = check_real("std", std, 0)

    def __call__(self, task: Task, qv_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw, see the module; a ValueError if ``qv_size`` exceeds the held-out set."""
        x, y = super().__call__(task, qv_size, generator)
        noise = torch.randn(x.shape, generator=generator, device=generator.device)
        return x + self.std * noise.to(x.device), y


@registry.built_in("rotation")
class Rotation(HeldOut):
    """Held-out images, rotated about their center: a similar domain, seen from another angle.

    Pixels are interpolated bilinearly; those from outside the image repeat its border.

    Args:
        degrees: Angle, counterclockwise.
    """

    def __init__(self, degrees: float = 30.0) -> None:
        self.degrees = check_real("degrees", degrees)

    def __call__(self, task: Task, qv_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw, see the module; a ValueError if ``qv_size`` exceeds the held-out set, or without images."""
        if len(task.input_shape) != 3:
            raise ValueError(
                "qv_source 'rotation' needs a task with images of shape (channels, height, width), "
                f"got inputs of shape {task.input_shape}"
            )
        x, y = super().__call__(task, qv_size, generator)
        return _rotate(x, math.radians(self.degrees)), y


@registry.built_in("other")
class Other(HeldOut):
    """Held-out samples of another task: a public data set of a similar domain.

    Args:
        task: The other task: a name, a mapping with its parameters, or a `Task`. It must have the input shape
            and the number of classes of the task whose server uses it.
    """

    uses_held_out = False  # not those of the task whose server uses it

    def __init__(self, task: str | Mapping[str, Any] | Task) -> None:
        self.spec = task
        self.task = make_task(task)

    def __call__(self, task: Task, qv_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw, see the module; a ValueError if ``qv_size`` exceeds that set, or the tasks do not fit."""
        mine, theirs = ((t.input_shape, t.num_classes) for t in (task, self.task))
        if mine != theirs:
            raise ValueError(
                f"task of qv_source 'other' must have inputs of shape {mine[0]} and {mine[1]} classes, "
                f"got {describe(self.spec)!r} with inputs of shape {theirs[0]} and {theirs[1]} classes"
            )
        return super().__call__(self.task.to(task.train[0].device), qv_size, generator)


def _draw(
    source: str, samples: tuple[Tensor, Tensor], qv_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    x, y = samples
    check_int("qv_size", qv_size, 1)
    if qv_size > len(x):
        raise ValueError(f"qv_size must be from 1 to {len(x)}, the size of {source}, got {qv_size}")
    order = torch.randperm(len(x), generator=generator, device=generator.device)
    rows = order[:qv_size].to(x.device)
    return x[rows], y[rows]


def _rotate(images: Tensor, angle: float) -> Tensor:
    """Turn images [q, c, h, w] counterclockwise by ``angle`` in radians."""
    height, width = images.shape[2:]
    sine, cosine = math.sin(angle), math.cos(angle)
    # maps places in the result to places in the image, each in units of half its height and width
    matrix = [[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]]
    theta = images.new_tensor(matrix).expand(len(images), 2, 3)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
