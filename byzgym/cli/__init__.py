"""The command line: `byzgym list | properties | compare | sweep | tune | train | evaluate | inspect | ...`.

What takes long to import (pandas, matplotlib, scikit-learn, stable-baselines3) is imported by the command
that needs it, so that help and lists come quickly.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

import byzgym
from byzgym.cli.arguments import registry as arguments_registry
from byzgym.cli.bench import Bench
from byzgym.cli.compare import Compare
from byzgym.cli.evaluate import Evaluate
from byzgym.cli.export import Export, Merge
from byzgym.cli.inspect import Inspect
from byzgym.cli.listing import List
from byzgym.cli.properties import Properties
from byzgym.cli.replay import Replay
from byzgym.cli.report import Report
from byzgym.cli.sweep import Sweep
from byzgym.cli.terminal import FailedRunsError, InputError, Terminal
from byzgym.cli.train import Train
from byzgym.cli.tune import Tune

Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Properties, tyro.conf.subcommand("properties")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Tune, tyro.conf.subcommand("tune")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Replay, tyro.conf.subcommand("replay")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
)
Modules = Annotated[
    tuple[str, ...], tyro.conf.arg(name="import", metavar="MODULE"), tyro.conf.UseAppendAction
]


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """Byzantine-robust gradient aggregation: compare, train and evaluate policies."""

    command: tyro.conf.OmitArgPrefixes[Command]
    imports: Modules = ()
    """A module of yours to import before the command, such as one that registers an attack; the current
    directory is searched, too."""
    version: bool = False
    """Print the version and stop."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Those of the command line where None.

    Returns:
        The exit status: 0, 1 where nobody reads the output to its end or runs of a comparison failed, 2 for a
        mistake of the user, 130 where interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's stream has no such method
            stream.reconfigure(errors="replace")  # "?" for what its encoding lacks, instead of an error
    words = sys.argv[1:] if arguments is None else list(arguments)
    if "--version" in words:  # also without a command, which tyro would demand
        print(f"byzgym {byzgym.__version__}")
        return 0
    try:
        given = tyro.cli(
            CommandLine,
            prog="byzgym",
            args=words,
            registry=arguments_registry,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
        )
        _import(given.imports)
        given.command.run(Terminal(given.imports, words))
    except InputError as error:
        print(f"byzgym: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it ends
        return 1
    except FailedRunsError:
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _import(modules: Sequence[str]) -> None:
    """Import the user's modules, which register things."""
    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for module in modules:
        if not module or module.startswith("."):
            raise InputError(f"--import must be the name of a module, such as my_module, got {module!r}")
        try:
            importlib.import_module(module)
        except Exception as error:  # the module may raise any
            kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
            raise InputError(" ".join(f"--import {module}: {kind}{error}".split())) from error
