"""Computing in the type of the tensors given, whatever a caller's autocast asks for."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

Given = ParamSpec("Given")
Result = TypeVar("Result")


def without_autocast(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Keep `torch.autocast`, in which a user's training job may call us, out of a function.

    It would round products to half precision, which distances between submissions do not survive.
    """

    @wraps(function)
    def exact(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        if not (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")):
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return exact
