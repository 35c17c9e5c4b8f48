"""Names with parameters, spelt alike in Python and at the command line: "ipm" or "ipm:epsilon=1.0"."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from typing import Any

BARE = ""
"""The key of a value that has none, as in ``model:runs/ppo/model.zip``; `Registry.make_from` names it."""
_OPENING = ("'", '"', "(", "[", "{")
_KEY = re.compile(r"\s*[^\W\d]\w*\s*=")


def parse(text: str) -> dict[str, Any]:
    """Read ``name``, ``name:key=value,key=value`` or ``name:value``.

    A value that is a Python literal stands for that literal; any other value is plain text up to the next
    comma. Quote text that holds a comma, begins with a quote or a bracket, or looks like a literal. What does
    not begin with a key is one value to its end, commas included. It is for the one parameter without which
    the thing cannot be made.

    Returns:
        ``{"name": name, key: value, ...}``, which every ``make_from`` of byzgym takes. The key of a value
        without one is `BARE`.

    Raises:
        ValueError: If the text has another form.

    Example:
        >>> parse("csv:path=/data/mine.csv,label=column")
        {'name': 'csv', 'path': '/data/mine.csv', 'label': 'column'}
        >>> parse("fixed:credits=[1, 0, 2],scale=1e-3,note='1,000'")
        {'name': 'fixed', 'credits': [1, 0, 2], 'scale': 0.001, 'note': '1,000'}
        >>> parse("model:runs/a,b/model.zip")
        {'name': 'model', '': 'runs/a,b/model.zip'}
    """
    problem = ValueError(
        "expected 'name' or 'name:key=value,...' with text (in quotes if it holds a comma) or Python "
        f"literals as values, got {text!r}"
    )
    if not isinstance(text, str):
        raise problem
    name, colon, rest = text.partition(":")
    spec: dict[str, Any] = {"name": name.strip()}
    if spec["name"] and rest.strip() and not _KEY.match(rest):
        return spec | {BARE: _value(rest.strip())}
    pending = ""
    for piece in rest.split(",") if colon else ():
        pending += piece
        key, _, value = (part.strip() for part in pending.partition("="))
        if value.startswith(_OPENING) and not _is_literal(value):
            pending += ","  # a comma inside a quote or a bracket
            continue
        if not value or not key.isidentifier() or key in spec:
            raise problem
        spec[key] = _value(value)
        pending = ""
    if pending or not spec["name"]:
        raise problem
    return spec


def label(spec: Mapping[str, Any]) -> str:
    """The inverse of `parse`.

    Example:
        >>> label({"name": "csv", "path": "/data/mine.csv", "label": "None"})
        "csv:path=/data/mine.csv,label='None'"
    """
    if BARE in spec:
        value = spec[BARE]
        spelt = repr(value) if isinstance(value, str) and _KEY.match(value) else _spelt(value)
        return f"{spec['name']}:{spelt}"
    parameters = ",".join(f"{key}={_spelt(value)}" for key, value in spec.items() if key != "name")
    return f"{spec['name']}:{parameters}" if parameters else str(spec["name"])


def canonical(text: str) -> str:
    """The one spelling under which tables and files list ``text``.

    Example:
        >>> canonical("gaussian: mean=-1, std=1e3")
        'gaussian:mean=-1,std=1000.0'
    """
    return label(parse(text))


def _value(text: str) -> Any:
    return ast.literal_eval(text) if _is_literal(text) else text


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (SyntaxError, TypeError, ValueError):
        return False
    return True


def _spelt(value: Any) -> str:
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"  # inf would be text
    if (
        isinstance(value, str)
        and value
        and value == value.strip()
        and value.isprintable()
        and "," not in value
        and not value.startswith(_OPENING)
        and not _is_literal(value)
    ):
        return value
    return repr(value)
