"""Names with parameters, as the command line takes them: ``ipm`` or ``ipm:epsilon=1.0``."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from keyword import iskeyword
from typing import Any


def parse(text: str) -> dict[str, Any]:
    """Read ``name`` or ``name:key=value,key=value``.

    Values are Python literals; a bare word is a string, as in ``other:task=digits``.

    Returns:
        ``{"name": name, key: value, ...}``, which every ``make_from`` of byzgym takes.

    Raises:
        ValueError: If the text has another form.
    """
    if not isinstance(text, str):
        raise ValueError(f"expected 'name' or 'name:key=value,...', got {text!r}")
    name, colon, rest = text.partition(":")
    if not name.strip() or (colon and not rest.strip()):
        raise ValueError(f"expected 'name' or 'name:key=value,...', got {text!r}")
    return {"name": name.strip(), **(_keywords(text, rest) if colon else {})}


def canonical(text: str) -> str:
    """The spelling under which tables and files list ``text``: Python's spelling of values.

    Raises:
        ValueError: As `parse`.
    """
    return label(parse(text))


def label(spec: Mapping[str, Any]) -> str:
    """The inverse of `parse`."""
    parameters = ",".join(f"{key}={_shown(value)}" for key, value in spec.items() if key != "name")
    return f"{spec['name']}:{parameters}" if parameters else str(spec["name"])


def _keywords(text: str, source: str) -> dict[str, Any]:
    problem = ValueError(
        f"expected 'name:key=value,...' with Python literals as values (a path as root=\"/data\", quotes "
        f"included), got {text!r}"
    )
    try:
        call = ast.parse(f"f({source})", mode="eval").body
    except (SyntaxError, ValueError):
        raise problem from None
    if not isinstance(call, ast.Call) or call.args:
        raise problem
    parameters: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg == "name":
            raise problem
        try:
            parameters[keyword.arg] = _value(keyword.value)
        except ValueError:
            raise problem from None
    return parameters


def _value(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def _shown(value: Any) -> str:
    if isinstance(value, str) and value.isidentifier() and value.isascii() and not iskeyword(value):
        return value  # others are literals or no expressions, or come back in another Unicode form
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"  # inf would be a word
    return repr(value)
