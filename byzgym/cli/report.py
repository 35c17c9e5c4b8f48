"""`byzgym report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from byzgym.cli.terminal import Terminal, mistakes


@dataclass(frozen=True, kw_only=True)
class Report:
    """Make the figures and the report again from the files of `byzgym compare`."""

    folder: tyro.conf.Positional[Path]
    """The folder with results.csv, curves.csv and config.json."""

    def run(self, terminal: Terminal) -> None:
        """Read, tabulate, draw and report."""
        from byzgym.experiments import report
        from byzgym.experiments.results import Results

        with mistakes():
            results = Results.read(self.folder)
        with mistakes(OSError):
            files = report.write(results, self.folder)
        report.show(results, terminal.console)
        terminal.print(f"\n{self.folder}: {', '.join(path.name for path in files)}")
