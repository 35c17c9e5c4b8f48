"""Files of an output folder: what may be written there, and writing them whole."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryFile


def check_folder(folder: Path) -> None:
    """Check that ``folder`` is one, or not there yet.

    Raises:
        FileExistsError: If it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"out must be a folder, but {folder} is a file")


def check_files(paths: Iterable[Path]) -> None:
    """Check that nothing but files stands where files are to be written.

    Raises:
        IsADirectoryError: If a path is a folder.
    """
    for path in paths:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder, where a file is to be written")


def prepare(folder: Path) -> None:
    """Make the folder, where there is none.

    Raises:
        OSError: If the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or error
        raise OSError(f"out must be a folder that can be written to, got {folder}: {why}") from None


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write files that are never seen half written, nor some of them without the others if writing fails.

    Raises:
        OSError: If one of them cannot be written; nothing is left beside them then.
    """
    check_files(texts)
    beside = {path: path.with_name(path.name + ".partial") for path in texts}
    try:
        for path, text in texts.items():
            beside[path].write_text(text, encoding="utf-8")
        for path, partial in beside.items():
            os.replace(partial, path)
    finally:
        for partial in beside.values():
            if partial.is_file():
                partial.unlink()
