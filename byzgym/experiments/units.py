"""Units of work: what is played side by side, in one batch.

A unit is one policy against one number of Byzantine workers, under all attacks and with all seeds that are
asked for and not there yet. The last bits of a run depend on what is played beside it, and runs are chaotic,
so units follow from the configuration and from what is finished, never from the number of processes, the
order or a measured time. A unit is written whole or not at all. So whoever kills a comparison and starts it
again gets the numbers that he would have got without.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch

from byzgym.experiments import identity, play, store
from byzgym.experiments.config import Comparison
from byzgym.experiments.play import Member
from byzgym.experiments.results import library_versions
from byzgym.validation import with_notes


@dataclass(frozen=True)
class Unit:
    """Runs of one policy that are played side by side."""

    comparison: Comparison
    policy: str
    num_byzantine: int
    members: tuple[Member, ...]

    @property
    def rounds(self) -> int:
        """How many rounds it takes."""
        return self.comparison.rounds

    def only(self, members: Sequence[Member]) -> Unit:
        """The same with fewer runs."""
        return replace(self, members=tuple(members))

    def parts(self) -> list[Unit]:
        """Its attacks one by one, or the seeds of its only attack."""
        attacks = list(dict.fromkeys(attack for attack, _ in self.members))
        if len(attacks) > 1:
            return [self.only([member for member in self.members if member[0] == one]) for one in attacks]
        return [self.only([member]) for member in self.members]


@dataclass(frozen=True)
class Played:
    """What a unit has given: an entry for each of its runs."""

    entries: list[dict[str, Any]]
    """Columns of the store that do not follow from the configuration."""
    members: list[Member]
    units: dict[str, str]
    """For the hash of each batch that was played, its members as JSON."""


def units_of(comparison: Comparison) -> list[Unit]:
    """All units of a comparison, in the order of playing."""
    seeds = range(comparison.first_seed, comparison.first_seed + comparison.seeds)
    members = tuple((attack, seed) for attack in comparison.attacks for seed in seeds)
    numbers, policies = comparison.num_byzantine, comparison.policies
    return [Unit(comparison, policy, f, members) for f in numbers for policy in policies]


def play_unit(unit: Unit, progress: Callable[[int], None] = lambda rounds: None) -> Played:
    """Play a unit; where that fails, its attacks one by one, and where one of those fails, its seeds.

    So an error costs only the runs that have it, which are marked as failed.
    """
    try:
        batch = play.play_batch(unit.comparison, unit.policy, unit.num_byzantine, progress, unit.members)
    except (Exception, SystemExit) as error:  # rules, attacks and models may be anybody's code
        if len(unit.members) == 1:
            return failed(unit, told(error))
        parts = [play_unit(part) for part in unit.parts()]
        return Played(
            [entry for part in parts for entry in part.entries],
            [member for part in parts for member in part.members],
            {name: members for part in parts for name, members in part.units.items()},
        )
    entries = []
    for env, run in enumerate(batch.runs):
        kept = {"curve": store.curve_text(batch.curves[env :: len(batch.runs)])}
        kept["threat_model"] = identity.text(batch.threat_models[env])
        entries.append({**run, "status": "done", **kept, "credits": store.pack(batch.traces[env])})
    return _signed(unit, entries)


def failed(unit: Unit, error: str) -> Played:
    """All runs of a unit, which nobody could play."""
    comparison = unit.comparison
    known = {name: getattr(comparison, name) for name in ("task", "roles", "partition", "num_workers")}
    known |= {"rounds": comparison.rounds, "policy": unit.policy, "num_byzantine": unit.num_byzantine}
    known |= {"status": "failed", "error": error, "version": library_versions()["byzgym"]}
    return _signed(unit, [{**known, "attack": attack, "seed": seed} for attack, seed in unit.members])


def told(error: BaseException) -> str:
    """An error in one line, with the notes that say where it comes from."""
    return f"{type(error).__name__}: {with_notes(error)}"


def _signed(unit: Unit, entries: list[dict[str, Any]]) -> Played:
    members = json.dumps(unit.members)
    name = identity.key([unit.policy, unit.num_byzantine, members])[:16]
    signs = {
        "unit": name,
        "versions": json.dumps(library_versions()),
        "machine": machine(),
        "finished": now(),
    }
    return Played([{**entry, **signs} for entry in entries], list(unit.members), {name: members})


def machine() -> str:
    """What the runs were played on, without its name."""
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{platform.system()} {platform.machine()}, torch {torch.backends.cpu.get_cpu_capability()}{device}"
    )


def now() -> str:
    """The time, in UTC, down to microseconds: it sorts."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="microseconds")
