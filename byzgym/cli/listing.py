"""`byzgym list`: everything that has a name, with the beginning of its docstring."""

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

Kind = Literal[
    "tasks",
    "models",
    "partitions",
    "qv-sources",
    "attacks",
    "roles",
    "rules",
    "pre-aggregators",
    "agents",
]

_REGISTRIES: dict[str, Registry[Any]] = {
    "tasks": tasks.registry.registry,
    "models": tasks.models.registry,
    "partitions": tasks.partitions.registry,
    "qv-sources": tasks.quasi_validation.registry,
    "attacks": attacks.registry.registry,
    "roles": attacks.roles.registry,
    "rules": aggregation.registry.registry,
    "pre-aggregators": aggregation.pre.registry.registry,
    "agents": agent_registry,
}
_FILLED_IN = ("num_byzantine", "simulation")
"""Parameters that the environment fills in; of models, it fills in the first two."""
_CREDITS = {
    "rules": ("no credits", "gives credits"),
    "pre-aggregators": ("may lose credits", "keeps credits"),
}
_KNOWN = {
    "rule": "the rule",
    "qv": "the QV samples",
    "qv_distribution": "the source of the QV samples",
    "qv_labels": "the labels of the QV samples",
}
_KNOWS = re.compile(
    r"(?:(?:[Tt]he )?[Aa]ttackers know|(?:A worker|Nobody) needs to know|It knows) .+?(?=\.(?:\s|$))"
)
_LINK = re.compile(r" \([^()]*https?://[^)]*\)")


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
    table.add_column("name", no_wrap=True)
    table.add_column("what it is", ratio=1, overflow="fold")  # links are long
    registry = _REGISTRIES[kind]
    for name in registry.names():
        factory: Any = registry.factory(name)
        details = [_traits(kind, factory), _parameters(factory, skip=2 if kind == "models" else 0)]
        details = [line for line in (*details, _paper(factory)) if line]
        # Texts, because strings would be read as markup: names may hold brackets.
        what = Text("\n").join([Text(_summary(factory)), *(Text(line, "dim cyan") for line in details)])
        what.rstrip()
        table.add_row(Text(name), what)
    return table


def _traits(kind: str, factory: Any) -> str:
    """What decides whether a rule or an attack can be used: its condition, cost and needs."""
    if kind in ("rules", "pre-aggregators"):
        cost = re.search(r"Cost: (.*?)(?:\.(?:\s|$)|;)", _documentation(factory))
        needs = [
            {"memory": "a memory", "qv": "QV samples"}[need] for need in sorted(getattr(factory, "needs", ()))
        ]
        if getattr(factory, "uses_num_byzantine", False):
            needs.append("f")
        parts = [
            getattr(factory, "condition", ""),
            f"cost {cost[1]}".replace("`", "") if cost else "",
            f"needs {', '.join(needs)}" if needs else "",
            _CREDITS[kind][bool(getattr(factory, "linear", False))],
        ]
        return "; ".join(part for part in parts if part)
    if kind in ("attacks", "roles"):
        # Where a parameter decides about it, only the docstring says what the attack knows.
        knowledge = [_KNOWN.get(name, name) for name in sorted(getattr(factory, "knowledge", ()))]
        said = _KNOWS.search(_documentation(factory))
        if said and not knowledge:
            return said[0][0].lower() + said[0][1:].replace("`", "")
        return f"knows {' and '.join(knowledge)}" if knowledge else ""
    return ""


def _paper(factory: Any) -> str:
    """The first link of the docstring."""
    link = re.search(r"https?://[^\s);]+", _documentation(factory))
    return link[0].rstrip(".,") if link else ""


def _documentation(factory: Any) -> str:
    documented = inspect.getdoc(factory) if getattr(factory, "__doc__", None) else ""
    return " ".join((documented or "").split())


def _summary(factory: Any) -> str:
    """The docstring's first paragraph without its links; if there are any, it may only name the paper.

    The first sentence of the second paragraph then says what it is.
    """
    documented = (inspect.getdoc(factory) or "") if getattr(factory, "__doc__", None) else ""
    first, second, *_ = [" ".join(paragraph.split()) for paragraph in documented.split("\n\n")] + ["", ""]
    summary = _LINK.sub("", first)
    if summary != first and not re.match(r">>>|\w+:", second):  # an example, or a section such as "Args:"
        summary += " " + _LINK.sub("", re.split(r"(?<=\.) (?=[A-Z`])", second)[0])
    return summary.replace("`", "").strip()


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
