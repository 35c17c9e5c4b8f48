"""The rules by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from byzgym.registry import Registry
from byzgym.validation import check_int

registry: Registry[Callable[[Tensor], Tensor]] = Registry("rule")
names = registry.names
register = registry.register
make = registry.make
make_from = registry.make_from


def largest_byzantine(rule: str | Callable[..., Any], num_workers: int, num_byzantine: int) -> int:
    """The largest f, at most the true one, that a rule can be told of: for comparisons beyond its condition.

    Args:
        rule: A registered name, a rule, or its factory. One without ``max_byzantine`` accepts any f.
        num_workers: The number n of workers.
        num_byzantine: The true number of Byzantine workers.

    Raises:
        ValueError: If the rule accepts no f at all for so few workers, or the name is unknown.
    """
    check_int("num_workers", num_workers, low=1)
    check_int("num_byzantine", num_byzantine, low=0)
    factory = registry.factory(rule) if isinstance(rule, str) else rule
    max_byzantine = getattr(factory, "max_byzantine", None)
    if max_byzantine is None:
        return num_byzantine
    allowed = max_byzantine(num_workers)
    if allowed < 0:
        condition = getattr(factory, "condition", "more workers")
        name = repr(rule) if isinstance(rule, str) else getattr(rule, "__name__", type(rule).__name__)
        raise ValueError(f"rule {name} needs {condition}, got n={num_workers}")
    return min(num_byzantine, int(allowed))
