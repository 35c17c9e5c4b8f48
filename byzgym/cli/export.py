"""`byzgym export` and `byzgym merge`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from byzgym.cli.terminal import Terminal, mistakes


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the runs of a folder to a CSV or Parquet file, with all their settings."""

    folder: tyro.conf.Positional[Path]
    """The folder with runs.sqlite."""
    file: tyro.conf.Positional[Path]
    """The file to write; it ends in .csv or .parquet."""
    curves: Path | None = None
    """Another file for the points of the curves; the column key says of which run."""

    def run(self, terminal: Terminal) -> None:
        """Read and write."""
        from byzgym.experiments import export
        from byzgym.experiments.store import Store

        with mistakes():
            for path in (self.file, self.curves):
                if path is not None:
                    export.check(path)
            with Store(self.folder) as store:
                table = export.runs(store)
                export.write(table, self.file)
                terminal.line(f"{self.file}: {len(table)} runs")
                if self.curves is not None:
                    points = export.points(store)
                    export.write(points, self.curves)
                    terminal.line(f"{self.curves}: {len(points)} points")


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Take the runs of other folders over into one; where two hold the same run, a finished one stays."""

    folder: tyro.conf.Positional[Path]
    """The folder that gets them; it is made if there is none."""
    others: tyro.conf.Positional[tuple[Path, ...]]
    """The folders with runs.sqlite from which they come; they stay as they are."""

    def run(self, terminal: Terminal) -> None:
        """Read and write."""
        from byzgym.experiments.store import Store

        with mistakes(), Store(self.folder, create=True) as store:
            store.merge(self.others)
            terminal.line(f"{self.folder}: {len(store)} runs")
