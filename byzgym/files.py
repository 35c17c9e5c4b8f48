"""Files that are written whole or not at all, and folders that one command at a time writes to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class WriteError(OSError):
    """A file could not be written; the message names it."""


@contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, which replaces ``path`` when the block ends without an error.

    It has the same suffix, since many writers choose the format by it. Its content is on the disk before it
    replaces ``path``, so that a power cut leaves one or the other. Where it cannot be written, a `WriteError`
    is raised, and ``path`` is as it was before.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except WriteError:  # of another file, written in the same block
        raise
    except (OSError, RuntimeError) as error:  # torch raises the second if the disk is full
        raise WriteError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write several text files: all of them, or none, with a `WriteError`, if one cannot be written."""
    with ExitStack() as stack:
        for path, text in texts.items():
            stack.enter_context(write_whole(path)).write_text(text, encoding="utf-8")


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Make the folder if there is none, and let no other command write to it while the block runs."""
    held = FileLock(folder / ".byzgym.lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout:
        busy = f"another comparison or training is writing to {folder}"
        raise OSError(f"{busy}; wait for it, or choose another folder (--out)") from None
    except OSError as error:
        why = error.strerror or error
        raise OSError(f"out must be a folder that can be written to, got {folder}: {why}") from None
    try:
        yield
    finally:
        held.release()
