"""`byzgym export` and `byzgym merge`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from byzgym.cli.terminal import Terminal, mistakes

if TYPE_CHECKING:
    from byzgym.experiments.store import Store


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the runs of a folder to a CSV or Parquet file, with all their settings.

    To a JSON or Markdown file go their threat-model records: rule, what it was told, workers, tolerated and
    actual bad fraction, sampling, data, attack, metric, controls and evidence.
    """

    folder: tyro.conf.Positional[Path]
    """The folder with runs.sqlite."""
    file: tyro.conf.Positional[Path]
    """The file to write; it ends in .csv or .parquet, or .json or .md for threat-model records."""
    curves: Path | None = None
    """Another file for the points of the curves; the column key says of which run."""

    def run(self, terminal: Terminal) -> None:
        """Read and write."""
        from byzgym.experiments import export
        from byzgym.experiments.store import Store

        with mistakes():
            export.check(self.file, export.SUFFIXES + export.RECORDS)
            if self.curves is not None:
                export.check(self.curves)
                if self.curves.resolve() == self.file.resolve():
                    raise ValueError(f"curves must be another file than that of the runs, got {self.curves}")
            with Store(self.folder) as store:
                if self.file.suffix in export.RECORDS:
                    entries = export.records(store)
                    export.write_records(entries, self.file)
                    terminal.line(f"{self.file}: {len(entries)} threat models")
                else:
                    self._write_runs(store, terminal)
                if self.curves is not None:
                    points = export.points(store)
                    export.write(points, self.curves)
                    terminal.line(f"{self.curves}: {len(points)} points")

    def _write_runs(self, store: Store, terminal: Terminal) -> None:
        from byzgym.experiments import export

        table = export.runs(store)
        export.write(table, self.file)
        terminal.line(f"{self.file}: {len(table)} runs")


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
