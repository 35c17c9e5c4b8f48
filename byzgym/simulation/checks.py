"""Checks of environments and seeds, as users give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from byzgym.validation import check_int


def checked_environments(envs: Any, num_envs: int) -> list[int]:
    """The numbers of some environments; of all where None."""
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
    """A seed for each of the environments."""
    if not isinstance(seeds, Sequence | np.ndarray) or isinstance(seeds, str) or len(seeds) != len(envs):
        raise ValueError(f"seeds must be one for each of the environments {list(envs)}, got {seeds!r}")
    return [check_int("seeds (each)", seed, low=0, high=2**63 - 1) for seed in seeds]
