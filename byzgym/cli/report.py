"""`byzgym report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from byzgym.cli.playing import Shape, show
from byzgym.cli.terminal import Terminal, mistakes


@dataclass(frozen=True, kw_only=True)
class Report(Shape):
    """Make the figures and the report of all that a folder holds, finished or not."""

    folder: tyro.conf.Positional[Path]
    """The folder with runs.sqlite, of `byzgym compare` or `byzgym sweep`."""

    def run(self, terminal: Terminal) -> None:
        """Read, tabulate, draw and report."""
        from byzgym.experiments.reading import read_all
        from byzgym.experiments.store import Store

        with mistakes(), Store(self.folder) as store:
            found = read_all(store)
        show(found, self.folder, terminal, self)
