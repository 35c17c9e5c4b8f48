"""What callers give to a simulation: checked, and copied where it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzgym.validation import check_int


def environment_numbers(envs: Any, num_envs: int) -> list[int]:
    """The environments meant by an argument ``envs``: all where it is None."""
    if envs is None:
        return list(range(num_envs))
    given: Any = envs.tolist() if isinstance(envs, Tensor | np.ndarray) else envs
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise ValueError(f"envs must be a list of numbers of environments, got {envs!r}")
    numbers = [check_int("envs (each)", env, low=0, high=num_envs - 1) for env in given]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"envs must name each environment once, got {numbers}")
    return numbers


def checked_seeds(seeds: Any, envs: Sequence[int]) -> list[int]:
    """A seed for each of the environments ``envs``."""
    if not isinstance(seeds, Sequence | np.ndarray) or isinstance(seeds, str) or len(seeds) != len(envs):
        raise ValueError(f"seeds must be one for each of the environments {list(envs)}, got {seeds!r}")
    return [check_int("seeds (each)", seed, low=0, high=2**63 - 1) for seed in seeds]


def check_tensor(name: str, value: Any, shape: torch.Size) -> None:
    """Raise an error unless ``value`` is a tensor of ``shape`` and of real numbers."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(value.shape)}")
    if value.is_complex():
        raise ValueError(f"{name} must be real, got {value.dtype}")


def check_credits(credits: Tensor) -> None:
    """Raise a ValueError unless credits [E, rows] are not negative and sum to at most 1."""
    if not (float(credits.detach().min()) >= 0 and float(credits.detach().sum(1).max()) <= 1 + 1e-3):
        raise ValueError(f"credits must not be negative and must sum to at most 1, got {credits.tolist()}")


def own_copy(values: Tensor, like: Tensor) -> Tensor:
    """A copy in the form of ``like``: the caller may write into its own, and computed it in any mode."""
    return values.detach().to(like, copy=True)
