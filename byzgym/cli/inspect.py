"""`byzgym inspect`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import gymnasium
import tyro

from byzgym import files
from byzgym.aggregation import NotLinearError
from byzgym.cli.evaluate import Player
from byzgym.cli.terminal import InputError, Terminal, flags, mistakes
from byzgym.validation import check_int

RECORD, PICTURE = "record.jsonl", "record.png"
_REWARD = ("reward", "reward_size", "reward_form")  # nothing is shown of it
_T = TypeVar("_T")
_Hidden = Annotated[_T, tyro.conf.Fixed, tyro.conf.Suppress]


@dataclass(frozen=True, kw_only=True)
class Inspect(Player):
    """Say who attacks, since when and together with whom: play one run, or read the record of one.

    A run is an episode of the Gymnasium environment, as `byzgym evaluate` plays it. Its record, and a picture
    of it, go to the folder --out.
    """

    record: Path | None = None
    """A record to read, of this command or of a training job, instead of playing a run."""
    seed: int = 0
    """The environment is reset with it."""
    out: Path | None = None
    """Folder for record.jsonl and record.png; byzgym-inspection where not given. The picture of a record that
    is read goes beside it where not given."""
    overwrite: bool = False
    """Replace a record that the folder holds."""
    reward: _Hidden[str | None] = None
    reward_size: _Hidden[int | None] = None
    reward_form: _Hidden[str] = "relative"

    def run(self, terminal: Terminal) -> None:
        """Play or read, tabulate and draw."""
        if self.record is None:
            self._play(terminal)
        else:
            self._read(self.record, terminal)

    def _play(self, terminal: Terminal) -> None:
        from byzgym.experiments.inspection import Watched, play_recorded

        out = Path("byzgym-inspection") if self.out is None else self.out
        path = out / RECORD
        with mistakes():
            check_int("seed", self.seed, low=0)
            env, predict = self.make_player(terminal)
            env.reset(seed=self.seed)
            configuration = self._configuration()
        watched: Any = env
        while not isinstance(watched, Watched):
            watched = watched.env
        with mistakes(OSError), files.lock(out):
            if path.exists() and not self.overwrite:
                raise FileExistsError(
                    f"{path} exists; choose another folder (--out) or replace it (--overwrite)"
                )
            with (
                mistakes(ValueError, RuntimeError, NotLinearError),
                terminal.progress(self.rounds) as advance,
            ):
                play_recorded(env, watched, predict, path, configuration, self.seed, advance)
            env.close()
            self._show(path, out / PICTURE, terminal)

    def _read(self, path: Path, terminal: Terminal) -> None:
        useless = sorted(terminal.given & {field.name for field in fields(self)} - {"record", "out"})
        if useless:
            raise InputError(f"--record shows a run that has been played; leave out {flags(useless)}")
        picture = (path.parent if self.out is None else self.out) / f"{path.stem}.png"
        with mistakes(OSError, ValueError):
            picture.parent.mkdir(parents=True, exist_ok=True)
            self._show(path, picture, terminal)

    def _show(self, path: Path, picture: Path, terminal: Terminal) -> None:
        from byzgym import forensics
        from byzgym.experiments.inspection import notes, verdict_table

        record = forensics.read(path)
        analysis = forensics.analyse(record.trace)
        truth = record.byzantine
        evaluation = None if truth is None else forensics.evaluate(analysis, truth)
        title = str(record.configuration.get("title", path.name))
        forensics.draw(analysis, picture, title, truth)
        unfinished = "" if record.complete else " (the run was interrupted, or still goes on)"
        terminal.print(f"{title}, {record.trace.num_rounds} rounds{unfinished}")
        terminal.print(verdict_table(analysis))
        for line in notes(analysis, evaluation):
            terminal.print(line)
        terminal.print(f"\n{path}, {picture}")

    def _configuration(self) -> dict[str, Any]:
        own = {"record", "out", "overwrite", "evaluate_every", *_REWARD}
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in own}
        player = str(self.model_path) if self.model_path is not None else self.policy or "gaa"
        arguments = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
        return {"player": player, "arguments": arguments}

    def make_environment(self, **others: Any) -> gymnasium.Env[Any, Any]:
        """See `Player`; its rounds are taken down."""
        from byzgym.experiments.inspection import Watched

        return Watched(super().make_environment(**others))
