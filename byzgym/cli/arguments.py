"""How the command line reads what Python takes in several forms: names with parameters are text."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from byzgym.aggregation import RuleSpec
from byzgym.simulation.config import Spec

registry = ConstructorRegistry()
"""Given to `tyro.cli`."""


@registry.primitive_rule
def _read(type_info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if type_info.type == Spec:
        return _words(1, "STR", lambda words: words[0])
    if type_info.type == Spec | Sequence[Spec]:
        return _words("*", "[STR [STR ...]]", tuple)
    if type_info.type == Sequence[RuleSpec] | None:
        return _words("*", "[STR [STR ...]]", lambda words: None if words == ["None"] else tuple(words))
    if type_info.type == float | Mapping[str, Any] | None:
        return _words(1, "FLOAT|MAPPING|None", _literal)
    return None


def _words(nargs: Any, metavar: str, read: Any) -> PrimitiveConstructorSpec[Any]:
    return PrimitiveConstructorSpec(
        nargs=nargs,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: True,
        str_from_instance=lambda value: list(map(str, value if isinstance(value, tuple) else [value])),
    )


def _literal(words: list[str]) -> Any:
    try:
        return ast.literal_eval(words[0])
    except (ValueError, SyntaxError):
        raise ValueError(f"expected a number, a mapping or None, got {words[0]!r}") from None
