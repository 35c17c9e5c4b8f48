"""Errors that name the argument, the value and what is allowed, or whose code has failed."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def blamed(author: str) -> Iterator[None]:
    """Say in the traceback of an error whose code it comes from."""
    try:
        yield
    except Exception as error:
        error.add_note(f"raised by {author}")
        raise


def check_int(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """Return ``value`` as an int in ``[low, high]``.

    Raises:
        ValueError: If it is not a whole number of 64 bits (booleans are not) or lies outside.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    number = int(value) if whole else 0
    if whole and not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} must be an integer of 64 bits{_range(low, high)}, got {value!r}")
    if not whole or (low is not None and number < low) or (high is not None and number > high):
        raise ValueError(f"{name} must be an integer{_range(low, high)}, got {value!r}")
    return number


def check_real(
    name: str,
    value: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
) -> float:
    """Return ``value`` as a finite float in ``[low, high]`` and, if given, strictly greater than ``above``.

    Raises:
        ValueError: If it is not a finite real number or lies outside.
    """
    allowed = f" greater than {above}" if above is not None else ""
    allowed += (" and" if allowed and (low is not None or high is not None) else "") + _range(low, high)
    number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    if (
        not math.isfinite(number)
        or (low is not None and number < low)
        or (high is not None and number > high)
        or (above is not None and number <= above)
    ):
        raise ValueError(f"{name} must be a finite number{allowed}, got {value!r}")
    return number


def check_choice(name: str, value: Any, allowed: Iterable[Any]) -> Any:
    """Return ``value`` if it is one of ``allowed``.

    Raises:
        ValueError: If it is not; the message lists what is.
    """
    allowed = list(allowed)
    # Not `value in allowed`, which an array answers with an array.
    if not any(isinstance(value, type(one)) and value == one for one in allowed):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def check_bool(name: str, value: Any) -> bool:
    """Return ``value`` if it is True or False.

    Raises:
        ValueError: If it is anything else.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return value


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    if high is not None:
        return f" of at most {high}"
    return ""


def check_tensor(name: str, value: Any, *shape: int | str) -> None:
    """Raise an error unless ``value`` is a dense tensor of real numbers of this shape.

    Args:
        name: The argument's name, for the error.
        value: What was given.
        shape: Sizes; a letter such as "E" stands for any.

    Raises:
        TypeError: If it is no tensor, or a sparse or complex one.
        ValueError: If the shape is another.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.is_complex() or value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor of real numbers, got {value.dtype}, {value.layout}")
    if value.dim() != len(shape) or any(
        isinstance(size, int) and size != actual for size, actual in zip(shape, value.shape, strict=True)
    ):
        raise ValueError(f"{name} must have shape [{', '.join(map(str, shape))}], got {list(value.shape)}")
