"""Playing whatever of one or more comparisons is not in a folder's store yet."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from byzgym.aggregation.registry import parse
from byzgym.aggregation.registry import registry as rule_registry
from byzgym.experiments import identity, play
from byzgym.experiments.config import Comparison
from byzgym.experiments.drawings import discard_drawings, drawings
from byzgym.experiments.engine import Engine, Here, Processes, cores
from byzgym.experiments.play import Member
from byzgym.experiments.reading import read_all
from byzgym.experiments.results import Results
from byzgym.experiments.store import NAME, Store
from byzgym.experiments.units import Played, Unit, now, units_of

Progress = Callable[[str, int], None]
"""Called with the policy and the number of rounds just played."""
Written = Callable[[Sequence[Mapping[str, Any]]], None]
"""Called with rows that the store has just got."""


def compare(
    comparison: Comparison,
    folder: str | Path,
    overwrite: bool = False,
    progress: Progress = lambda policy, rounds: None,
    engine: Engine | None = None,
) -> Results:
    """Play what of a comparison the folder's store does not hold yet.

    Args:
        comparison: What to play.
        folder: Where runs.sqlite goes, with a row for each run.
        overwrite: Whether to forget first what the folder holds.
        progress: Called with the policy and the number of rounds just played.
        engine: Who plays: this process where None, or `engine.Processes(4)`, or `ray_engine.OnRay()`.

    Returns:
        What the store holds of the comparison's setting, also from earlier: everything but policies, attacks,
        numbers of Byzantine workers and seeds is the same.

    Raises:
        ValueError: If a value is not allowed.
        TypeError: If a parameter does not exist.
        OSError: If the folder cannot be written to, or data cannot be read.
        RuntimeError: If the task needs a library that does not work here.
    """
    grid = Grid.plan([comparison], folder)
    with grid.open(overwrite) as store:
        grid.play(store, engine or Here(), progress)
        return read_all(store)[-1]


def engine_for(name: str, processes: int | None, address: str | None, imports: Sequence[str]) -> Engine:
    """The engine that the command line names."""
    if name == "ray":
        from byzgym.experiments.ray_engine import OnRay

        return OnRay(address, imports)
    number = cores() if processes is None else processes
    return Here() if number == 1 else Processes(number, imports)


@dataclass
class Grid:
    """The runs of one or more comparisons, and where they go."""

    folder: Path
    comparisons: list[Comparison]
    settings: list[str]
    """For each comparison the hash of what its runs have in common."""
    tasks: list[Task]
    """All units, in the order in which they are asked for."""
    imports: Sequence[str]

    @classmethod
    def plan(cls, comparisons: Sequence[Comparison], folder: str | Path, imports: Sequence[str] = ()) -> Grid:
        """Resolve the defaults of comparisons.

        Raises:
            ValueError: If a value is not allowed.
            TypeError: If a parameter does not exist.
        """
        settings = [identity.setting(comparison) for comparison in comparisons]
        tasks = [task for pair in zip(comparisons, settings, strict=True) for task in _tasks(*pair)]
        return cls(Path(folder), list(comparisons), [identity.key(one) for one in settings], tasks, imports)

    @contextmanager
    def open(self, overwrite: bool = False) -> Iterator[Store]:
        """The store, with these comparisons in it, each of which has been found to run.

        Raises:
            ValueError, TypeError, RuntimeError: If one cannot; nothing has changed then.
            FileExistsError: If the folder has figures or reports of somebody else, and no store.
            OSError: If the folder cannot be written to.
        """
        known = set[str]()
        if not overwrite and (self.folder / NAME).is_file():
            with Store(self.folder) as store:
                known = {entry["key"] for entry in store.asked()}
        elif not overwrite and (others := drawings(self.folder)):
            names = ", ".join(path.name for path in others)
            how = "choose another folder (--out) or replace them (--overwrite)"
            raise FileExistsError(f"{self.folder} already holds reports and no {NAME} ({names}); {how}")
        entries = [self._entry(*pair, known) for pair in zip(self.comparisons, self.settings, strict=True)]
        with Store(self.folder, create=True) as store:
            if overwrite:
                store.clear()
                discard_drawings(self.folder)
            for entry in entries:
                store.ask(entry)
            yield store

    def _entry(self, comparison: Comparison, setting: str, known: set[str]) -> dict[str, Any]:
        """What the store notes of a comparison."""
        keys = {run: key for task in self.tasks if task.setting == setting for run, key in task.runs()}
        asked: dict[str, Any] = {"comparison": asdict(comparison), "setting": setting}
        asked["runs"] = [keys[run] for run in comparison.runs()]
        key = identity.key({**asked, "imports": list(self.imports)})
        if key in known:  # it has been found to run
            return {"key": key, "asked": now()}
        found = play.begin(comparison)
        return {
            **asked,
            "key": key,
            "asked": now(),
            "told": [asdict(told) for told in found.told],
            "refs": found.references,
            "notes": found.notes,
            "versions": found.versions,
            "imports": list(self.imports),
        }

    def play(
        self, store: Store, engine: Engine, progress: Progress, written: Written = lambda rows: None
    ) -> None:
        """Play all that is missing, agents before rules, and write each unit as soon as it is finished.

        Of several processes in one folder the first goes through the units in order, others in an order of
        their own, so that they seldom play the same at the same time; if they do, the first one's rows stay.
        """
        # Who learns or has a network takes longer than a rule. Last, it would keep one process busy alone.
        tasks = sorted((task for task in self.tasks if task.left(store)), key=Task.is_rule)
        with _first(self.folder) as first:
            if not first:
                random.Random(os.getpid()).shuffle(tasks)
            if tasks:
                engine.play(len(tasks), _Writing(store, tasks, progress, written))


@dataclass
class Task:
    """A unit, and who its runs are."""

    unit: Unit
    setting: str
    """The hash of what all runs of the setting have in common."""
    configurations: dict[Member, dict[str, Any]]

    def __post_init__(self) -> None:
        self._keys = {member: identity.key(one) for member, one in self.configurations.items()}

    def runs(self) -> Iterator[tuple[tuple[str, int, str, int], str]]:
        """Its runs, as `Comparison.runs` has them, and their keys."""
        for (attack, seed), key in self._keys.items():
            yield (self.unit.policy, self.unit.num_byzantine, attack, seed), key

    def is_rule(self) -> bool:
        """Whether its policy is a rule, alone or behind pre-aggregators."""
        return parse(self.unit.policy)["name"] in rule_registry.names()

    def left(self, store: Store) -> Unit | None:
        """What is not finished; None where all is."""
        done = store.done(self._keys.values())
        members = [member for member in self.unit.members if self._keys[member] not in done]
        return self.unit.only(members) if members else None

    def rows(self, played: Played) -> list[dict[str, Any]]:
        """What the store keeps."""
        return [
            {
                **entry,
                "key": self._keys[member],
                "setting": self.setting,
                "code": identity.code(),
                "configuration": identity.text(self.configurations[member]),
            }
            for member, entry in zip(played.members, played.entries, strict=True)
        ]


def _tasks(comparison: Comparison, setting: dict[str, Any]) -> Iterator[Task]:
    """The units of a comparison whose runs have this setting in common."""
    files = {name: identity.digests([name]) for name in comparison.policies + comparison.attacks}
    for unit in units_of(comparison):
        who = {"policy": unit.policy, "num_byzantine": unit.num_byzantine}
        configurations = {
            (attack, seed): identity.run(
                setting, files[unit.policy] | files[attack], **who, attack=attack, seed=seed
            )
            for attack, seed in unit.members
        }
        yield Task(unit, identity.key(setting), configurations)


class _Writing:
    """Gives an engine its units, writes what they give, and says how far it has come."""

    def __init__(self, store: Store, tasks: Sequence[Task], progress: Progress, written: Written) -> None:
        self._store, self._tasks, self._progress, self._written = store, tasks, progress, written
        self._rounds = [0] * len(tasks)

    def left(self, number: int) -> Unit | None:
        """See `Watcher.left`."""
        unit = self._tasks[number].left(self._store)
        if unit is None:  # another process has played it
            self.rounds(number, self._tasks[number].unit.rounds)
        return unit

    def rounds(self, number: int, rounds: int) -> None:
        """See `Watcher.rounds`."""
        new = rounds - self._rounds[number]
        if new > 0:
            self._rounds[number] = rounds
            self._progress(self._tasks[number].unit.policy, new)

    def done(self, number: int, played: Played) -> None:
        """See `Watcher.done`."""
        task = self._tasks[number]
        rows = task.rows(played)
        self._store.add(rows, played.units)
        self._written(rows)
        self.rounds(number, task.unit.rounds)


@contextmanager
def _first(folder: Path) -> Iterator[bool]:
    """Whether nobody else plays in this folder; the operating system forgets it when the process dies."""
    lock = FileLock(folder / ".playing.lock", timeout=0)
    try:
        lock.acquire()
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
