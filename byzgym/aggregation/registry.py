"""The rules by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from byzgym import specs
from byzgym.aggregation.base import CallableRule, Rule
from byzgym.registry import Registry, describe, is_callable

RuleSpec = str | Mapping[str, Any] | Rule | Callable[[Tensor], Tensor]
"""A name, "name:key=value", a mapping with a "name", a rule, or a callable ``gradients -> vector``."""

registry: Registry[Any] = Registry("rule", is_callable, "a callable")
names = registry.names
register = registry.register


def make(name: str, /, **parameters: Any) -> Rule:
    """Build the rule registered as ``name``; a plain callable becomes a `CallableRule`.

    Raises:
        ValueError: If the name is unknown; the message lists the known ones.
        TypeError: If the rule has no such parameter.

    Warns:
        UserWarning: If the rule depends on f and is not told ``num_byzantine``; it then assumes 0.

    Example:
        >>> make("krum", num_byzantine=1)
        Krum(num_byzantine=1)
    """
    return _made_or_warned({"name": name, **parameters})


def make_from(spec: RuleSpec) -> Rule:
    """`make` from a name, "name:key=value", a mapping with a "name", a rule or a callable."""
    return _made_or_warned(spec)


def make_for(spec: RuleSpec, num_workers: int, num_byzantine: int) -> Rule:
    """`make_from`, with f filled in: ``num_byzantine``, or the largest f that the rule accepts.

    Args:
        spec: As for `make_from`. A number of Byzantine workers in it is left alone.
        num_workers: The number n of submissions.
        num_byzantine: The true f.

    Raises:
        ValueError: If the name is unknown, or the rule does not accept its f, or any f for so few workers.
        TypeError: If a parameter does not exist.

    Example:
        >>> make_for("krum", num_workers=10, num_byzantine=7)
        Krum(num_byzantine=3)
    """
    rule = _made(spec, 0)
    if not _is_told(spec):
        allowed = rule.max_byzantine(num_workers)
        if allowed < 0:
            raise ValueError(f"rule {describe(spec)} needs {rule.condition}, got n={num_workers}")
        rule = _made(spec, min(num_byzantine, allowed))
    rule.check(torch.zeros(num_workers, 1))
    return rule


def _made_or_warned(spec: RuleSpec) -> Rule:
    rule = _made(spec)
    if rule.uses_num_byzantine and not _is_told(spec):
        warnings.warn(f"rule {describe(spec)} is not told num_byzantine and assumes 0", stacklevel=3)
    return rule


def _made(spec: RuleSpec, num_byzantine: int | None = None) -> Rule:
    made = registry.make_from(spec, {} if num_byzantine is None else {"num_byzantine": num_byzantine})
    if isinstance(made, Rule):
        return made
    return CallableRule(made, describe(spec))


def _is_told(spec: RuleSpec) -> bool:
    """Whether the spec itself says f, or is a rule that has been built."""
    if isinstance(spec, str):
        return "num_byzantine" in specs.parse(spec)
    return not isinstance(spec, Mapping) or "num_byzantine" in spec
