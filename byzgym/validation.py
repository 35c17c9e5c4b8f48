"""Errors that name the argument, the value and what is allowed, or whose code has failed."""

from __future__ import annotations

import difflib
import math
import numbers
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100
_short.maxlist = _short.maxtuple = _short.maxdict = 20


def shown(value: Any) -> str:
    """The value as an error shows it: on one line, and not at length.

    Example:
        >>> shown([1, "two"])
        "[1, 'two']"
    """
    return " ".join(_short.repr(value).split())


def unknown(kind: str, name: Any, known: Iterable[str]) -> ValueError:
    """The error for a name that is not one of those known; it suggests the nearest one.

    Example:
        >>> print(unknown("rule", "krmu", ["krum", "mean"]))
        unknown rule 'krmu'; did you mean 'krum'? known: krum, mean
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1) if isinstance(name, str) else []
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"unknown {kind} {shown(name)}; {hint}known: {', '.join(known)}")


@contextmanager
def blamed(author: str) -> Iterator[None]:
    """Say in the traceback of an error whose code it comes from."""
    try:
        yield
    except Exception as error:
        note = f"raised by {author}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise


def with_notes(error: BaseException) -> str:
    """The message of an error, and whose code it comes from, on one line.

    Example:
        >>> try:
        ...     with blamed("attack mine"):
        ...         raise ValueError("what now?")
        ... except ValueError as error:
        ...     with_notes(error)
        'what now? (raised by attack mine)'
    """
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return " ".join(f"{error}{notes}".split())


@contextmanager
def within(argument: str) -> Iterator[None]:
    """Put the name of an argument before the message of an error about something inside its value.

    Example:
        >>> with within("members[1]"):
        ...     check_int("window", 0, low=1)
        Traceback (most recent call last):
        ValueError: members[1]: window must be an integer of at least 1, got 0
    """
    kinds = (TypeError, ValueError, ImportError, FileNotFoundError, OSError)
    try:
        yield
    except kinds as error:
        kind = next(kind for kind in kinds if isinstance(error, kind))
        raise kind(f"{argument}: {error}") from error


def check_int(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """Return ``value`` as an int of 64 bits in ``[low, high]``; booleans are refused."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if whole and not -(2**63) <= value < 2**63:
        low, high = -(2**63) if low is None else low, 2**63 - 1 if high is None else high
    if not whole or (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{name} must be an integer{_range(low, high)}, got {shown(value)}")
    return int(value)


def check_real(
    name: str, value: Any, low: float | None = None, high: float | None = None, *, above: float | None = None
) -> float:
    """Return ``value`` as a finite float in ``[low, high]`` and, if given, greater than ``above``."""
    allowed = f" greater than {above}" if above is not None else ""
    allowed += (" and" if allowed and (low is not None or high is not None) else "") + _range(low, high)
    number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    if (
        not math.isfinite(number)
        or (low is not None and number < low)
        or (high is not None and number > high)
        or (above is not None and number <= above)
    ):
        raise ValueError(f"{name} must be a finite number{allowed}, got {shown(value)}")
    return number


def check_choice(name: str, value: Any, allowed: Iterable[Any]) -> Any:
    """Return ``value`` if it is one of ``allowed``."""
    allowed = list(allowed)
    # Not `value in allowed`, which an array answers with an array.
    if not any(isinstance(value, type(one)) and value == one for one in allowed):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {shown(value)}")
    return value


def check_bool(name: str, value: Any) -> bool:
    """Return ``value`` if it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {shown(value)}")
    return value


def check_kind(name: str, value: Any, kinds: type[Any] | tuple[type[Any], ...], allowed: str) -> None:
    """Raise a TypeError unless ``value`` is of one of these kinds, which errors call ``allowed``.

    Example:
        >>> check_kind("path", 3, (str, Path), "a path")
        Traceback (most recent call last):
        TypeError: path must be a path, got int
    """
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {allowed}, got {type(value).__name__}")


def check_path(name: str, value: Any) -> Path:
    """Return ``value``, a string or another path, as a `Path`."""
    check_kind(name, value, (str, PathLike), "a path")
    return Path(value)


def check_array(name: str, value: Any, kind: type[Any], *shape: str) -> np.ndarray:
    """Return ``value`` as an array of numbers of this kind, of so many dimensions if a shape is given.

    Raises:
        TypeError: If it is none.
        ValueError: If it has another number of dimensions.
    """
    try:
        array = np.asarray(value, dtype=kind)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be an array of numbers, got {shown(value)}") from None
    if shape and array.ndim != len(shape):
        raise ValueError(f"{name} must have shape [{', '.join(shape)}], got {list(array.shape)}")
    return array


def check_tensor(name: str, value: Any, *shape: Any) -> None:
    """Raise an error unless ``value`` is a dense tensor of real numbers of this shape.

    A letter such as "E" in the shape stands for any size, and an ellipsis for any number of dimensions. What
    is no such tensor is a TypeError, another shape a ValueError.
    """
    usual = isinstance(value, Tensor) and value.dtype == torch.float32 and value.layout is torch.strided
    if usual and value.shape == shape:
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.is_complex() or value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor of real numbers, got {value.dtype}, {value.layout}")
    found: list[Any] = list(value.shape)
    if ... in shape:
        before, after = shape.index(...), len(shape) - shape.index(...) - 1
        found[before : max(before, len(found) - after)] = [...]
    fits = len(found) == len(shape)
    if not fits or any(isinstance(s, int) and s != size for s, size in zip(shape, found, strict=True)):
        wanted = ", ".join("..." if size is ... else str(size) for size in shape)
        raise ValueError(f"{name} must have shape [{wanted}], got {list(value.shape)}")


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    if high is not None:
        return f" of at most {high}"
    return ""
