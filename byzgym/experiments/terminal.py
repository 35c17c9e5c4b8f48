"""What the commands have in common: where they print, how they tell mistakes, and the bar of progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class InputError(Exception):
    """A mistake of the user, told in one line."""


@contextmanager
def mistakes(*kinds: type[Exception]) -> Iterator[None]:
    """Turn the errors with which byzgym refuses an input into an `InputError` of one line."""
    caught = kinds or (ValueError, TypeError, OSError, RuntimeError, ImportError)
    try:
        yield
    except BrokenPipeError:  # whoever reads the output has had enough of it: no mistake
        raise
    except caught as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
        raise InputError(" ".join(f"{error}{notes}".split())) from error


def plain_console() -> Console:
    """A console that prints names and paths as they are: brackets are no markup, colons no emoji."""
    return Console(markup=False, emoji=False)


def replace_unknown_characters() -> None:
    """Print a question mark for each character that the encoding of the output lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a stream of somebody else's need not have it
        if reconfigure is not None:
            reconfigure(errors="replace")


@contextmanager
def progress(console: Console, total: int) -> Iterator[Callable[[str, int], None]]:
    """A bar that is gone at the end; what is yielded takes what was done, and how much of ``total``.

    Nothing is printed where the output is no terminal: work goes on when nobody reads it.
    """
    if not console.is_terminal:
        yield lambda what, done: None
        return
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("", total=total)
        yield lambda what, done: bars.update(bar, description=f"{what:<16}", advance=done)
