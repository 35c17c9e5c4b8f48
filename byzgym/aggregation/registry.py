"""The rules by name, alone or behind pre-aggregators."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from byzgym import specs
from byzgym.aggregation.base import CallableRule, Rule
from byzgym.aggregation.pre.registry import registry as pre_aggregators
from byzgym.registry import Registry, describe, is_callable
from byzgym.validation import check_int, shown, unknown

RuleSpec = str | Mapping[str, Any] | Rule | Callable[[Tensor], Tensor]
"""A name, "name:key=value", a mapping with a "name", a rule, or a callable ``gradients -> vector``.

Pre-aggregators stand in front of a name, "nnm+bucketing:size=2+krum", or in the list "pre" of a mapping.
"""

registry: Registry[Any] = Registry("rule", is_callable, "a callable")
registry.keep_apart(pre_aggregators)
names = registry.names
register = registry.register
_PLUS = re.compile(r"\+\s*(?=[^\W\d])")
"""A plus sign that joins names: a letter follows, which is not so in 1e+3."""


def make(name: str, /, **parameters: Any) -> Rule:
    """Build the rule registered as ``name``; a plain callable becomes a `CallableRule`.

    Args:
        name: Of the rule, perhaps behind pre-aggregators: "nnm+krum", "nnm+bucketing:size=2+krum".
        parameters: Of the rule. ``pre`` is a list of pre-aggregators, as `pre.make_from` takes them.

    Raises:
        ValueError: If a name is unknown; the message lists the known ones.
        TypeError: If the rule has no such parameter.

    Warns:
        UserWarning: If the rule depends on f and is not told ``num_byzantine``; it then assumes 0.

    Example:
        >>> make("krum", num_byzantine=1), make("krum", num_byzantine=1, pre=["nnm"])
        (Krum(num_byzantine=1), NNM(num_byzantine=1) + Krum(num_byzantine=1))
    """
    return _made_or_warned({"name": name, **parameters})


def make_from(spec: RuleSpec) -> Rule:
    """`make` from a name, "name:key=value", a mapping with a "name", a rule or a callable."""
    return _made_or_warned(spec)


def parse(text: str) -> dict[str, Any]:
    """`specs.parse` for the name of a policy, which pre-aggregators may precede.

    What precedes a plus sign is a pre-aggregator if its name is that of one. So plus signs may stand in the
    parameters of the rule, and in those of other policies.

    Example:
        >>> parse("nnm+bucketing:size=3+multi_krum:num_selected=5")
        {'name': 'multi_krum', 'num_selected': 5, 'pre': ['nnm', {'name': 'bucketing', 'size': 3}]}
        >>> parse("ensemble:members=krum+gaa")
        {'name': 'ensemble', 'members': 'krum+gaa'}
    """
    pre: list[Any] = []
    while isinstance(text, str) and (plus := _plus_behind_pre(text)):
        spec = specs.parse(text[: plus.start()])
        pre.append(spec if len(spec) > 1 else spec["name"])
        text = text[plus.end() :]
    spec = specs.parse(text)
    if pre and "pre" in spec:
        raise ValueError(f"pre is given twice, in front of {spec['name']!r} and as {shown(spec['pre'])}")
    return spec | {"pre": pre} if pre else spec


def split(text: str) -> list[str]:
    """The policies in a text in which "+" joins them; pre-aggregators belong to the rule behind them.

    Example:
        >>> split("gaa+nnm+krum+median")
        ['gaa', 'nnm+krum', 'median']
    """
    policies, pending = [], ""
    pieces = _PLUS.split(text)
    if pieces[-1].endswith("+"):  # what should follow is missing, and whoever makes it will say so
        pieces = [*pieces[:-1], pieces[-1][:-1], ""]
    for piece in pieces:
        pending += piece
        if _leading(piece) in pre_aggregators.names():
            pending += "+"
        else:
            policies.append(pending)
            pending = ""
    return [*policies, pending.removesuffix("+")] if pending else policies


def label(spec: Mapping[str, Any]) -> str:
    """The inverse of `parse`: the one spelling under which tables and files list a policy.

    Example:
        >>> label({"name": "krum", "num_byzantine": 2, "pre": ["nnm", {"name": "bucketing", "size": 2}]})
        'nnm+bucketing:size=2+krum:num_byzantine=2'
    """
    pre = spec.get("pre")
    if not isinstance(pre, Sequence) or isinstance(pre, str):
        return specs.label(spec)
    parts = [specs.canonical(one) if isinstance(one, str) else describe(one) for one in pre]
    return "+".join([*parts, specs.label({key: spec[key] for key in spec if key != "pre"})])


def normalised(spec: Any) -> Any:
    """A spec with its pre-aggregators in the list "pre"; what is no text and no mapping as it is."""
    if isinstance(spec, str):
        return parse(spec)
    if isinstance(spec, Mapping) and isinstance(spec.get("name"), str) and "+" in spec["name"]:
        both = parse(spec["name"])
        others = {key: value for key, value in spec.items() if key != "name"}
        if twice := sorted(both.keys() & others.keys()):
            raise ValueError(f"{twice[0]} is given twice, in the name and beside it, in {shown(dict(spec))}")
        return both | others
    return spec


def check_behind(name: Any) -> None:
    """Raise a ValueError if a name that is not known is a pre-aggregator's, or has something in front."""
    if not isinstance(name, str):
        return
    if name.endswith("+"):
        raise ValueError(f"a rule is missing behind {name!r}")
    if "+" in name:
        first = _leading(name)
        if first in registry.names():
            known = ", ".join(pre_aggregators.names())
            raise ValueError(
                f"{first!r} in {name!r} is a rule, which stands last; in front can stand: {known}"
            )
        raise unknown("pre-aggregator", first, pre_aggregators.names())
    if name in pre_aggregators.names():
        raise ValueError(f"{name!r} is a pre-aggregator; a rule stands behind it, as in '{name}+mean'")


def _plus_behind_pre(text: str) -> re.Match[str] | None:
    """The plus sign behind the pre-aggregator with which the text begins, if it begins with one."""
    return _PLUS.search(text) if _leading(text) in pre_aggregators.names() else None


def _leading(text: str) -> str:
    """The name with which a text begins."""
    return re.split(r"[:+]", text, maxsplit=1)[0].strip()


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
    spec = normalised(spec)
    rule = _made(spec, 0)
    if not _is_told(spec):
        allowed = rule.max_byzantine(num_workers)
        if allowed < 0:
            raise ValueError(f"rule {described(spec)} needs {rule.condition}, got n={num_workers}")
        rule = _made(spec, min(num_byzantine, allowed))
    rule.check(torch.zeros(num_workers, 1))
    return rule


def _made_or_warned(spec: RuleSpec) -> Rule:
    spec = normalised(spec)
    rule = _made(spec)
    if rule.uses_num_byzantine and not _is_told(spec):
        warnings.warn(f"rule {described(spec)} is not told num_byzantine and assumes 0", stacklevel=3)
    return rule


def _made(spec: Any, num_byzantine: int | None = None) -> Rule:
    """The rule of a normalised spec."""
    if isinstance(spec, Mapping) and "pre" in spec:
        return _made_behind(spec["pre"], {key: spec[key] for key in spec if key != "pre"}, num_byzantine)
    if isinstance(spec, Mapping) and spec.get("name") not in registry.names():
        check_behind(spec.get("name"))
    made = registry.make_from(spec, {} if num_byzantine is None else {"num_byzantine": num_byzantine})
    if isinstance(made, Rule):
        return made
    return CallableRule(made, describe(spec))


def _made_behind(pre: Any, spec: Mapping[str, Any], num_byzantine: int | None) -> Rule:
    """The rule of a spec behind pre-aggregators; all are told the same f."""
    from byzgym.aggregation.pre import compose  # which imports rules

    if isinstance(pre, str | Mapping) or not isinstance(pre, Sequence):
        raise TypeError(f"pre must be a list of pre-aggregators, got {shown(pre)}")
    name = spec.get("name")
    f = num_byzantine
    if "num_byzantine" in spec:
        f = check_int("num_byzantine", spec["num_byzantine"], low=0)
        if name in registry.names() and not registry.takes(name, "num_byzantine"):
            spec = {key: spec[key] for key in spec if key != "num_byzantine"}  # it is for the others
    return compose(pre, _made(spec, f), f)


def _is_told(spec: Any) -> bool:
    """Whether the spec itself says f, or is a rule that has been built."""
    return not isinstance(spec, Mapping) or "num_byzantine" in spec


def described(spec: Any) -> str:
    """`describe`, with pre-aggregators in front of the name."""
    spec = normalised(spec)
    return label(spec) if isinstance(spec, Mapping) else describe(spec)
