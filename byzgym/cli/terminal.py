"""What the commands have in common: where they print, how they report mistakes, and the progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from byzgym.validation import with_notes


class InputError(Exception):
    """A mistake of the user, reported in one line."""


class FailedRunsError(Exception):
    """Some runs of a comparison failed, which the command has said."""


class Terminal:
    """Where a command prints.

    Args:
        imports: The user's modules that have been imported; commands that are printed import them, too.
        words: The words of the command line.

    Attributes:
        given: The names of the options among the words, such as "qv_size".
    """

    def __init__(self, imports: Sequence[str] = (), words: Sequence[str] = ()) -> None:
        self.imports = tuple(imports)
        options = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
        self.given = {option.replace("-", "_") for option in options}
        # Names and paths are printed as they are: brackets are no markup, colons no emoji.
        self.console = Console(markup=False, emoji=False, highlight=False)

    def print(self, *objects: Any) -> None:
        """Print to the standard output."""
        self.console.print(*objects)

    def line(self, text: str) -> None:
        """Print a text with a path or a command in it, which may be copied: it is not folded."""
        self.console.print(text, soft_wrap=True)

    @contextmanager
    def progress(
        self, total: int, done: int = 0, every: float | None = None
    ) -> Iterator[Callable[[str, int], None]]:
        """Show a bar on a terminal until the block ends.

        Args:
            total: How much there is to do.
            done: How much of it has been done before.
            every: Where the output is no terminal, print a line after so many seconds; none where None.

        Yields:
            A function that takes what is being done, and how much of ``total`` has just been done.
        """
        if not self.console.is_terminal:
            # rich below 14 prints an empty line for a bar that is disabled
            yield (lambda what, done: None) if every is None else _Lines(self, total, done, every)
            return
        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as bars:
            bar = bars.add_task("", total=total, completed=done)
            yield lambda what, done: bars.update(bar, description=f"{what:<16}", advance=done)


class _Lines:
    """Says in plain lines how many steps are done; its clock starts with the first of them."""

    def __init__(self, terminal: Terminal, total: int, done: int, every: float) -> None:
        self._terminal, self._total, self._every = terminal, total, every
        self._done = done
        self._began: float | None = None

    def __call__(self, what: str, done: int) -> None:
        self._done += done
        now = time.monotonic()
        if self._began is None:
            self._began = self._last = now
            self._before = self._done
        if now - self._last < self._every:
            return
        self._last = now
        left = (self._total - self._done) * (now - self._began) / (self._done - self._before)
        time_left = timedelta(seconds=max(0, round(left)))
        self._terminal.print(f"{what}: {self._done} of {self._total} steps, {time_left} left")


def flags(names: Iterable[str]) -> str:
    """Options as they are written.

    >>> flags(["pool_size", "rules"])
    '--pool-size, --rules'
    """
    return ", ".join("--" + name.replace("_", "-") for name in names)


@contextmanager
def mistakes(*kinds: type[Exception]) -> Iterator[None]:
    """Turn the errors with which byzgym refuses an input into an `InputError` of one line."""
    caught = kinds or (ValueError, TypeError, OSError, RuntimeError, ImportError)
    try:
        yield
    except BrokenPipeError:  # nobody reads the output to its end, as in `byzgym list | head`: no mistake
        raise
    except caught as error:
        # Gymnasium adds all arguments.
        text = with_notes(error).partition(" was raised from the environment creator")[0]
        raise InputError(text) from error
