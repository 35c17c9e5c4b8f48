"""Taking a run back: it is played again from its seed to a named round, and compared with its record.

One seed reproduces a run, so the store need not keep the state of every round: it keeps the configuration,
and what was played side by side, on which last bits depend. The whole unit is played again, as it was. The
state counts as that of the run only if curve and credits equal the recorded ones, number by number. Last bits
also depend on byzgym's code, on torch and on the processor; where the run differs for such a reason, there is
an error, and no state that is only similar.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from byzgym.experiments import identity
from byzgym.experiments.config import Comparison
from byzgym.experiments.play import Member, Playing
from byzgym.experiments.results import library_versions
from byzgym.experiments.store import Store
from byzgym.experiments.units import machine
from byzgym.files import write_whole
from byzgym.simulation.config import RunConfig
from byzgym.validation import check_int

Progress = Callable[[int], None]
"""Called with the number of rounds just played."""


class DifferentRunError(RuntimeError):
    """What is played again is not what was recorded."""


@dataclass(frozen=True)
class State:
    """A run after some round.

    Attributes:
        round: How many rounds have been played.
        accuracy: On the test set, from 0 to 1.
        qv_loss: On the server's QV samples.
        parameters: By name, as the model's ``load_state_dict`` takes them.
        workers: Who sent the submissions of the last round (of the next one in round 0); their numbers, or
            those of secure groups.
        credits: Of these submissions, which the last round gave; None without credits.
        byzantine: Which of these submissions were Byzantine.
    """

    round: int
    accuracy: float
    qv_loss: float
    parameters: dict[str, Tensor]
    workers: list[int]
    credits: list[float] | None
    byzantine: list[bool]


class Replay:
    """A finished run of a store, to be played again.

    Args:
        store: That holds it.
        run: Its key, or as many of its first characters as no other key has.

    Attributes:
        key: Of the run.
        recorded: Its row in the store.
        configuration: All its settings.
        others: How many runs were played beside it.

    Raises:
        ValueError: If there is no such run, or several, or it failed.
    """

    def __init__(self, store: Store, run: str) -> None:
        self.recorded = store.row(run)
        self.key = str(self.recorded["key"])
        if self.recorded["status"] != "done":
            raise ValueError(
                f"run must be a finished one, got {self.key}, which failed: {self.recorded['error']}"
            )
        self.configuration: dict[str, Any] = json.loads(self.recorded["configuration"])
        self._members = store.members(self.recorded["unit"])
        self._env = self._members.index((self.configuration["attack"], self.configuration["seed"]))
        self.others = len(self._members) - 1
        self.comparison = _comparison(self.configuration, self._members)
        self._curve: dict[str, list[Any]] = json.loads(self.recorded["curve"])
        self._trace = store.credits(self.key)
        self._round: int | None = None  # that `to` has reached
        self._playing: Playing | None = None  # there, or some rounds later; None where others came after

    def differences(self) -> list[str]:
        """What is not as it was when the run was played, one line each.

        Raises:
            ValueError: If it needs somebody's rule or attack that is not registered, or a file that is gone.
        """
        then = self.configuration["files"]
        names = [value for value in self.configuration.values() if isinstance(value, str)]
        now = identity.digests(names)
        for name in then:
            if name not in now:
                raise ValueError(
                    f"the run was played with {name}, which is missing here: import the module that "
                    "registers it (--import MODULE), or put the file back"
                )
        lines = [f"{name} has changed since" for name in then if now[name] != then[name]]
        versions = {"code": (self.configuration["code"], identity.code())}
        recorded, here = json.loads(self.recorded["versions"]), library_versions()
        versions |= {name: (recorded.get(name), here[name]) for name in ("torch", "numpy")}
        versions["machine"] = self.recorded["machine"], machine()
        return lines + [f"{name} was {old}, is {new}" for name, (old, new) in versions.items() if old != new]

    def to(self, round: int, progress: Progress = lambda rounds: None) -> State:
        """Play again from the seed until so many rounds have been played.

        Where the curve has no point there, some rounds more are played, up to the next one, to see whether it
        equals the recorded one, too.

        Args:
            round: From 0 to the number of rounds of the run.
            progress: Called with the number of rounds just played.

        Raises:
            ValueError: If the run has no such round.
            DifferentRunError: If the run is not the recorded one. It says where it begins to differ.
        """
        check_int("to", round, low=0, high=self.comparison.rounds)
        playing = self._begin()
        playing.to(round, progress)
        state = self._state(playing)
        playing.to(next(point for point in self._curve["round"] if point >= round))
        self._compare(playing)
        self._round, self._playing = round, playing
        return state

    def go_on(
        self,
        policy: str | None = None,
        without: Iterable[int] = (),
        progress: Progress = lambda rounds: None,
    ) -> State:
        """Play the rest from where `to` has stopped, perhaps otherwise than it was played.

        Args:
            policy: Who decides from here on, without any memory of the rounds before; the run's policy, which
                goes on as it is, where None.
            without: Workers whose submissions the server rejects from here on.
            progress: Called with the number of rounds just played.

        Raises:
            ValueError: If there is no such policy or worker, or workers are hidden in secure groups.
            RuntimeError: If `to` has not been called.
        """
        if self._round is None:
            raise RuntimeError("go_on needs a round to begin from; call to(round) first")
        playing, self._playing = self._playing, None
        if playing is None or playing.round > self._round:
            playing = self._begin()
            playing.to(self._round)
        if policy is not None:
            playing.switch(policy)
        playing.exclude(without)
        playing.to(self.comparison.rounds, progress)
        return self._state(playing)

    def save(self, state: State, path: str | Path, **notes: str) -> None:
        """Write the parameters of a state as safetensors; the file's metadata says which run and round it is.

        Args:
            state: What `to` or `go_on` has returned.
            path: The file, which is replaced.
            notes: More entries for the metadata.

        Raises:
            OSError: If it cannot be written.
        """
        settings = identity.text(self.configuration)
        metadata = {"key": self.key, "round": str(state.round), "configuration": settings, **notes}
        with write_whole(path) as temporary:
            save_file(state.parameters, temporary, metadata)

    def _begin(self) -> Playing:
        who = self.configuration["policy"], self.configuration["num_byzantine"]
        return Playing(self.comparison, *who, self._members)

    def _compare(self, playing: Playing) -> None:
        """Raise an error unless all that has been played equals what was recorded."""
        number = len(self._members)
        for at, point in enumerate(playing.curves[self._env :: number]):
            for name, values in self._curve.items():
                then, now = values[at], point[name]
                if then != (None if now != now else now):
                    raise self._different(point["round"], name, then, now)
        for name, now in playing.trace(self._env).items():
            then = self._trace.get(name, now[:0])[: len(now)]
            row = _first_difference(then, now)
            if row is not None:
                raise self._different(row + 1, name, *(rows[row : row + 1].tolist() for rows in (then, now)))

    def _different(self, round: int, name: str, then: Any, now: Any) -> DifferentRunError:
        reasons = self.differences() or ["code, libraries and machine are those of the record"]
        return DifferentRunError(
            f"run {self.key[:12]} cannot be taken back exactly: in round {round} {name} {then} was recorded, "
            f"and now it is {now} ({'; '.join(reasons)})"
        )

    def _state(self, playing: Playing) -> State:
        env, workers = self._env, range(playing.byzantine.shape[1])
        return State(
            playing.round,
            *playing.measure(env),
            playing.simulation.parameters(env),
            list(workers) if playing.workers is None else playing.workers[env].tolist(),
            None if playing.credits is None else playing.credits[env].tolist(),
            playing.byzantine[env].tolist(),
        )


def _first_difference(then: np.ndarray, now: np.ndarray) -> int | None:
    """The first row in which two arrays differ; None where they are equal."""
    for at, row in enumerate(now):
        if at == len(then) or not np.array_equal(then[at], row, equal_nan=row.dtype.kind == "f"):
            return at
    return None


def _comparison(configuration: Mapping[str, Any], members: Sequence[Member]) -> Comparison:
    """A comparison with the settings of a run, all of them resolved."""
    settings = {field.name: configuration[field.name] for field in fields(RunConfig)}
    return Comparison(
        **settings,
        policies=(configuration["policy"],),
        attacks=tuple(dict.fromkeys(attack for attack, _ in members)),
        num_byzantine=(configuration["num_byzantine"],),
        evaluate_every=configuration["evaluate_every"],
    )
