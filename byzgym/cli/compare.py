"""`byzgym compare`."""

from __future__ import annotations

from dataclasses import dataclass

from byzgym.cli.playing import Tracked, play
from byzgym.cli.terminal import Terminal, mistakes
from byzgym.experiments.config import Comparison, arguments


@dataclass(frozen=True, kw_only=True)
class Compare(Tracked, Comparison):
    """Compare policies under attacks: a table, figures and a report, from runs that stay in runs.sqlite.

    Names may carry parameters: `ipm:epsilon=1.0`, `gaa:window=1`, `dirichlet:alpha=0.1`. Without
    arguments classical rules, GAA, trust, set and the oracle meet four attacks by 7 of 10 workers on the
    digits. Runs that the folder holds already are not played again.
    """

    def __post_init__(self) -> None:
        """Leave the checks to `run`, which reports mistakes in one line."""

    def run(self, terminal: Terminal) -> None:
        """Play, tabulate, draw and report."""
        with mistakes():
            comparison = Comparison(**arguments(self, Comparison))
        play(self, [comparison], terminal)
