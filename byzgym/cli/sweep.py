"""`byzgym sweep`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from byzgym.cli.playing import Tracked, play
from byzgym.cli.terminal import Terminal, mistakes


@dataclass(frozen=True, kw_only=True)
class Sweep(Tracked):
    """Compare policies in every setting of a grid, which a TOML file describes.

    The keys of the file are those of `byzgym compare`, with underscores, such as num_byzantine = [3, 7]. A
    table [grid] gives any of them a list of values, and every combination is a setting.
    """

    file: tyro.conf.Positional[Path]
    """The TOML file."""

    def run(self, terminal: Terminal) -> None:
        """Read, play, tabulate, draw and report."""
        from byzgym.experiments import sweep

        with mistakes():
            comparisons = sweep.read(self.file)
        play(self, comparisons, terminal)
