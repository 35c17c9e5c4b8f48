"""What the commands have in common: where they print, how they report mistakes, and the progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class InputError(Exception):
    """A mistake of the user, reported in one line."""


class Terminal:
    """Where a command prints.

    Args:
        imports: The user's modules that have been imported; commands that are printed import them, too.
    """

    def __init__(self, imports: Sequence[str] = ()) -> None:
        self.imports = tuple(imports)
        # Names and paths are printed as they are: brackets are no markup, colons no emoji.
        self.console = Console(markup=False, emoji=False, highlight=False)

    def print(self, *objects: Any) -> None:
        """Print to the standard output."""
        self.console.print(*objects)

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[str, int], None]]:
        """Show a bar on a terminal until the block ends.

        Yields:
            A function that takes what is being done, and how much of ``total`` has just been done.
        """
        if not self.console.is_terminal:
            yield lambda what, done: None  # rich below 14 prints an empty line for a bar that is disabled
            return
        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as bars:
            bar = bars.add_task("", total=total)
            yield lambda what, done: bars.update(bar, description=f"{what:<16}", advance=done)


@contextmanager
def mistakes(*kinds: type[Exception]) -> Iterator[None]:
    """Turn the errors with which byzgym refuses an input into an `InputError` of one line."""
    caught = kinds or (ValueError, TypeError, OSError, RuntimeError, ImportError)
    try:
        yield
    except BrokenPipeError:  # nobody reads the output to its end, as in `byzgym list | head`: no mistake
        raise
    except caught as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
        raise InputError(" ".join(f"{error}{notes}".split())) from error
