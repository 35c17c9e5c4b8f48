"""`byzgym replay`."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from byzgym import agents
from byzgym.cli.terminal import Terminal, mistakes

if TYPE_CHECKING:
    from byzgym.experiments.replay import Replay as Played
    from byzgym.experiments.replay import State


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Take a run back to a round: play it again, as it was recorded, and write the model of that round.

    What was played side by side with it is played again, too, and curve and credits must equal the recorded
    ones. With --policy or --without the rest is then played otherwise: what would have been.
    """

    folder: tyro.conf.Positional[Path]
    """The folder with runs.sqlite."""
    key: tyro.conf.Positional[str]
    """The key of the run, or its first characters; `byzgym export` and threat_model.json list keys."""
    to: int | None = None
    """The round; the last one where not given."""
    policy: str | None = None
    """Who decides from there on, in place of the run's policy."""
    without: tuple[int, ...] = ()
    """Workers whose submissions are rejected from there on."""
    out: Path | None = None
    """Folder for the models, in safetensors files named after run and round; that of runs.sqlite where not
    given."""

    def run(self, terminal: Terminal) -> None:
        """Play, compare, write and tabulate."""
        from byzgym.experiments.replay import Replay
        from byzgym.experiments.store import Store

        with mistakes():
            with Store(self.folder) as store:
                replay = Replay(store, self.key)
            rounds = replay.comparison.rounds
            to = rounds if self.to is None else self.to
            if self.policy is not None:
                agents.make_from(self.policy)  # a mistake shows at once
            if to == rounds and (self.policy is not None or self.without):
                raise ValueError(f"to must be before the last round, {rounds}, where others play the rest")
            for line in replay.differences():
                print(f"byzgym: {line}", file=sys.stderr)
            terminal.line(_title(replay))
            with terminal.progress(rounds) as advance:
                state = replay.to(to, lambda played: advance("replay", played))
            terminal.print(f"round {to} of {rounds}: curve and credits equal the recorded ones")
            self._show(replay, state, "", terminal)
            if self.policy is None and not self.without:
                return
            who = " ".join(map(str, self.without))
            otherwise = " ".join([self.policy or "", f"without {who}" if who else ""]).strip()
            otherwise += f" from {to} on"
            with terminal.progress(rounds, to) as advance:
                end = replay.go_on(self.policy, self.without, lambda played: advance(otherwise, played))
            terminal.print(f"\nround {rounds}, {otherwise}")
            self._show(replay, end, otherwise, terminal)
            accuracy, loss = (replay.recorded[name] for name in ("accuracy", "qv_loss"))
            terminal.print(f"as recorded: accuracy {accuracy:.4f}, QV loss {loss:.4g}")

    def _show(self, replay: Played, state: State, otherwise: str, terminal: Terminal) -> None:
        """Write the model of a state, and tabulate who had credit."""
        from rich import box
        from rich.table import Table

        folder = self.folder if self.out is None else self.out
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"out must be a folder that can be written to, got {folder}: {error}") from error
        name = f"model-{replay.key[:12]}-{state.round}"
        name += f"-{_file_name(otherwise)}" if otherwise else ""
        path = folder / f"{name}.safetensors"
        replay.save(state, path, **({"otherwise": otherwise} if otherwise else {}))
        terminal.print(f"accuracy {state.accuracy:.4f}, QV loss {state.qv_loss:.4g}")
        groups = int(replay.configuration["secure_group_size"]) > 1
        table = Table("group" if groups else "worker", "Byzantine", "credit", box=box.SIMPLE_HEAD)
        credits = state.credits or [math.nan] * len(state.workers)
        for worker, byzantine, credit in zip(state.workers, state.byzantine, credits, strict=True):
            shown = "-" if math.isnan(credit) else f"{credit:.3f}"
            table.add_row(str(worker), "yes" if byzantine else "no", shown)
        terminal.print(table)
        terminal.line(str(path))


def _title(replay: Played) -> str:
    from byzgym.experiments.config import corrupts_transmissions
    from byzgym.experiments.results import panel_heading

    held = replay.configuration
    attack = held["attack"]
    faults = [attack] if corrupts_transmissions(attack) else []
    f = panel_heading([attack], [held["num_byzantine"]], faults, str(held["num_workers"]))
    who = f"{held['policy']} against {held['attack']}, {f}"
    beside = f"{replay.others} other run{'s' * (replay.others != 1)}"
    return f"{who}, seed {held['seed']}: run {replay.key[:12]}, played beside {beside}"


def _file_name(text: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "=,._+" else "-" for sign in text)
