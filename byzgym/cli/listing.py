"""`byzgym list`: everything that has a name, with the first paragraph of its docstring."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

import tyro
from rich import box
from rich.table import Table
from rich.text import Text

from byzgym import aggregation, attacks, tasks
from byzgym.agents.registry import registry as agent_registry
from byzgym.cli.terminal import Terminal
from byzgym.registry import Registry

Kind = Literal["tasks", "models", "partitions", "qv-sources", "attacks", "roles", "rules", "agents"]

_REGISTRIES: dict[str, Registry[Any]] = {
    "tasks": tasks.registry.registry,
    "models": tasks.models.registry,
    "partitions": tasks.partitions.registry,
    "qv-sources": tasks.quasi_validation.registry,
    "attacks": attacks.registry.registry,
    "roles": attacks.roles.registry,
    "rules": aggregation.registry.registry,
    "agents": agent_registry,
}
_FILLED_IN = ("num_byzantine", "simulation")
"""Parameters that the environment fills in; of models, it fills in the first two."""


@dataclass(frozen=True, kw_only=True)
class List:
    """List what has a name, with its parameters."""

    kind: tyro.conf.Positional[Kind | None] = None
    """One kind only."""

    def run(self, terminal: Terminal) -> None:
        """Print the tables."""
        for kind in get_args(Kind) if self.kind is None else (self.kind,):
            terminal.print(_table(kind))


def _table(kind: str) -> Table:
    table = Table(title=kind, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("name", *(("condition", "credits") if kind == "rules" else ())):
        table.add_column(heading, no_wrap=True)
    table.add_column("what it is", ratio=1)
    registry = _REGISTRIES[kind]
    for name in registry.names():
        factory: Any = registry.factory(name)
        # Texts, because strings would be read as markup: names may hold brackets.
        row = [Text(name)]
        if kind == "rules":
            condition = str(getattr(factory, "condition", ""))
            row += [Text(condition), Text("yes" if getattr(factory, "linear", False) else "no")]
        table.add_row(*row, _described(factory, skip=2 if kind == "models" else 0))
    return table


def _described(factory: Any, skip: int) -> Text:
    """The first paragraph of the docstring, without links and backticks, and the parameters below it."""
    documented = (inspect.getdoc(factory) or "") if getattr(factory, "__doc__", None) else ""
    paragraph = " ".join(documented.split("\n\n")[0].split())
    text = Text(re.sub(r" \([^()]*https?://[^)]*\)", "", paragraph).replace("`", ""))
    parameters = _parameters(factory, skip)
    if parameters:
        text.append(("\n" if text else "") + parameters, style="dim cyan")
    return text


def _parameters(factory: Any, skip: int) -> str:
    """Parameters with their defaults, as a user would write them behind the name."""
    shown = []
    for parameter in list(inspect.signature(factory).parameters.values())[skip:]:
        if parameter.name in _FILLED_IN or parameter.kind is parameter.VAR_KEYWORD:
            continue
        if parameter.default is parameter.empty:
            shown.append(("*" if parameter.kind is parameter.VAR_POSITIONAL else "") + parameter.name)
        else:
            shown.append(f"{parameter.name}={parameter.default!r}")
    return ", ".join(shown)
