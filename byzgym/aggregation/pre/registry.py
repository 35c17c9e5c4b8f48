"""The pre-aggregators by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from byzgym.aggregation.pre.base import CallablePreAggregator, PreAggregator
from byzgym.registry import Registry, describe, is_callable

PreSpec = str | Mapping[str, Any] | PreAggregator | Callable[[Tensor], Tensor]
"""A name, "name:key=value", a mapping with a "name", a pre-aggregator, or a callable [..., n, d] -> same."""

registry: Registry[Any] = Registry("pre-aggregator", is_callable, "a callable")
names = registry.names
register = registry.register


def make(name: str, /, **parameters: Any) -> PreAggregator:
    """Build the pre-aggregator registered as ``name``; a plain callable becomes a `CallablePreAggregator`.

    Raises:
        ValueError: If the name is unknown; the message lists the known ones.
        TypeError: If it has no such parameter.

    Example:
        >>> make("nnm", num_byzantine=1)
        NNM(num_byzantine=1)
    """
    return make_from({"name": name, **parameters})


def make_from(spec: PreSpec, num_byzantine: int | None = None) -> PreAggregator:
    """`make` from a name, "name:key=value", a mapping with a "name", a pre-aggregator or a callable.

    Args:
        spec: What to make.
        num_byzantine: The f that it is told, if the spec does not say it.
    """
    made = registry.make_from(spec, {} if num_byzantine is None else {"num_byzantine": num_byzantine})
    return made if isinstance(made, PreAggregator) else CallablePreAggregator(made, describe(spec))
