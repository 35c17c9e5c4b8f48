"""What `byzgym list` shows: everything that has a name, with the first line of its docstring."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from byzgym import aggregation, attacks, tasks
from byzgym.agents.registry import registry as agent_registry
from byzgym.registry import Registry

KINDS = ("tasks", "models", "partitions", "qv-sources", "attacks", "roles", "rules", "agents")

_GIVEN = ("num_byzantine", "simulation")
"""Parameters that the environment fills in; of models, it fills in the first two."""


def show(kind: str | None, console: Console) -> None:
    """Print one kind of names, or all of them.

    Raises:
        ValueError: If the kind is unknown.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    for name in KINDS if kind is None else (kind,):
        console.print(_rules() if name == "rules" else _plain(name))


def _plain(kind: str) -> Table:
    table = _table(kind)
    table.add_column("what it is", ratio=1)
    names, factory = _source(kind)
    for name in names:
        table.add_row(Text(name), _described(factory(name), skip=2 if kind == "models" else 0))
    return table


def _rules() -> Table:
    table = _table("rules")
    for heading in ("condition", "credits"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what it is", ratio=1)
    for name in aggregation.names():
        factory = aggregation.registry.registry.factory(name)
        credits = "yes" if getattr(factory, "linear", False) else "no"
        condition = Text(str(getattr(factory, "condition", "")))
        table.add_row(Text(name), condition, credits, _described(factory))
    return table


def _described(factory: Any, skip: int = 0) -> Text:
    """The first line of the docstring, and the parameters below it."""
    text, parameters = Text(first_line(factory)), _parameters(factory, skip)
    if parameters:
        text.append(("\n" if text else "") + parameters, style="dim cyan")
    return text


def _source(kind: str) -> tuple[list[str], Callable[[str], Any]]:
    registries: dict[str, Registry[Any]] = {
        "tasks": tasks.registry.registry,
        "models": tasks.models.registry,
        "partitions": tasks.partitions.registry,
        "qv-sources": tasks.quasi_validation.registry,
        "attacks": attacks.registry.registry,
        "roles": attacks.roles.registry,
        "agents": agent_registry,
    }
    registry = registries[kind]
    return registry.names(), registry.factory


def first_line(factory: Any) -> str:
    """The first line of a docstring as plain text, without backticks; empty where there is none."""
    text = inspect.getdoc(factory) if getattr(factory, "__doc__", None) else None
    return text.splitlines()[0].replace("`", "") if text else ""


def _parameters(factory: Any, skip: int) -> str:
    """Parameters with their defaults, as a user would write them behind the name."""
    shown = []
    for parameter in list(inspect.signature(factory).parameters.values())[skip:]:
        if parameter.name in _GIVEN:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        if parameter.default is parameter.empty:
            shown.append(("*" if parameter.kind is parameter.VAR_POSITIONAL else "") + parameter.name)
        else:
            shown.append(f"{parameter.name}={parameter.default!r}")
    return ", ".join(shown)


def _table(kind: str) -> Table:
    table = Table(title=kind, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True)
    return table
