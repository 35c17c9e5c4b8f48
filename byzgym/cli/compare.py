"""`byzgym compare`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from byzgym.cli.terminal import Terminal, mistakes
from byzgym.experiments.config import Comparison, arguments, command


@dataclass(frozen=True, kw_only=True)
class Compare(Comparison):
    """Compare policies under attacks: a table, results.csv, figures and a report.

    Names may carry parameters: `ipm:epsilon=1.0`, `gaa:window=1`, `dirichlet:alpha=0.1`. Without
    arguments classical rules, GAA, trust, set and the oracle meet four attacks by 7 of 10 workers on the
    digits.
    """

    out: Path = Path("byzgym-results")
    """Folder for results.csv, curves.csv, config.json, the figures and the report."""
    overwrite: bool = False
    """Replace results that the folder holds."""

    def __post_init__(self) -> None:
        """Leave the checks to `run`, which reports mistakes in one line."""

    def run(self, terminal: Terminal) -> None:
        """Play, tabulate, draw and report."""
        from byzgym.experiments import report
        from byzgym.experiments.play import begin, play
        from byzgym.experiments.results import claim

        with mistakes():
            comparison = Comparison(**arguments(self, Comparison))
            results = begin(comparison)
        results.imports = terminal.imports
        rounds = len(comparison.policies) * len(comparison.num_byzantine) * comparison.rounds
        try:
            with mistakes(OSError), claim(self.out, self.overwrite):
                with terminal.progress(rounds) as advance:
                    play(results, self.out, advance)
                files = report.write(results, self.out)
        except KeyboardInterrupt:
            left = f"nothing was finished, and nothing in {self.out} has changed"
            if not results.runs.empty:
                show = command(terminal.imports, "report", str(self.out))
                left = f"what was finished is in {self.out}, and `{show}` shows it"
            print(f"byzgym: interrupted; {left}", file=sys.stderr)
            raise
        report.show(results, terminal.console)
        terminal.print(f"\n{self.out}: results.csv, curves.csv, {', '.join(path.name for path in files)}")
