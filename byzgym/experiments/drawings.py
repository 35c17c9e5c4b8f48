"""The figures and reports in a folder of results: which files these are, and room for new ones."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from byzgym.files import WriteError

_DRAWN = re.compile(
    r"((overview|breakdown|settings|(accuracy|final|profile|detection|credits)_f\d+)\.(png|pdf|svg))"
    r"|report\.(html|md)|threat_model\.(json|md)",
    re.ASCII,
)


def drawings(folder: Path) -> list[Path]:
    """The files of a folder that have names of figures or reports."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _DRAWN.fullmatch(path.name) and path.is_file())


def make_room(folder: Path) -> None:
    """Make a folder for figures and reports, and remove those of earlier results.

    Raises:
        WriteError: If it cannot be written to.
    """
    try:
        folder.mkdir(exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        discard_drawings(folder)
    except OSError as error:
        raise WriteError(
            f"cannot write a report into {folder}: {error.strerror or error}; make the folder writable, or "
            "report a copy of its runs.sqlite in another one"
        ) from error


def discard_drawings(folder: Path) -> None:
    """Remove the figures and reports of earlier results, and nothing else."""
    for path in drawings(folder):
        path.unlink()
