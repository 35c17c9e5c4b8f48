"""What is known of a comparison: its runs, as a report shows them, and what of it is still missing."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

import byzgym
from byzgym.experiments.config import Comparison, command, corrupts_transmissions, options
from byzgym.files import WriteError

if TYPE_CHECKING:
    from byzgym.experiments.store import Store

RUN_COLUMNS: dict[str, type] = {
    **dict.fromkeys(("task", "model", "policy", "attack", "roles", "partition"), str),
    **dict.fromkeys(("num_classes", "num_workers", "num_byzantine", "seed", "rounds"), int),
    **dict.fromkeys(
        ("accuracy", "attack_success_rate", "qv_loss", "byzantine_credit", "detection_auc"), float
    ),
    **{"diverged": bool, "seconds": float, "version": str},
}
"""What is known of a run that is finished."""
CURVE_COLUMNS: dict[str, type] = {
    **{"policy": str, "attack": str, "num_byzantine": int, "seed": int},
    **{"round": int, "accuracy": float, "attack_success_rate": float, "qv_loss": float},
}
"""A point of a run's curve."""
RUN = ("policy", "num_byzantine", "attack", "seed")
"""What tells a run of a comparison from the others."""


@dataclass(frozen=True)
class Told:
    """The f that a rule was told, where that is less than the true one."""

    policy: str
    num_byzantine: int  # the true f
    told: int  # the largest f that the rule accepts
    condition: str  # what the rule demands, such as "n >= 2f + 3"
    rule: str = ""  # its name, if it is inside the policy

    def __str__(self) -> str:
        inside = f"{self.rule} is " if self.rule else ""
        condition = f" (needs {self.condition})" if self.condition else ""
        return f"{inside}told f = {self.told}, the largest it accepts{condition}"


def library_versions() -> dict[str, str]:
    """Of byzgym and of what results depend on."""
    others = {name: version(name) for name in ("torch", "numpy", "gymnasium")}
    return {"byzgym": byzgym.__version__, **others, "python": platform.python_version()}


@dataclass
class Results:
    """All that a report needs.

    Attributes:
        comparison: What was played.
        runs: One row a run, `RUN_COLUMNS`.
        curves: One row an evaluation, `CURVE_COLUMNS`.
        told: Rules that were told a smaller f than the true one.
        failed: The runs that failed, with the columns of `RUN` and their errors.
        expected: The runs that were asked for, with the columns of `RUN`, their keys, and whether the last
            command asked for them.
        references: Policies that see more than a server would.
        notes: What was otherwise when a policy was trained, one line each.
        versions: Of byzgym and the libraries that results depend on.
        imports: The user's modules that had been imported (`byzgym --import`).
        setting: The hash of what all runs have in common.
        stored: The finished runs again, with all that the store keeps of them but credits.
        configuration: What all runs have in common, every default resolved.
        machines: What the runs were played on.
        folder: Where the store is; None for results that were not read from one.
        asked: The comparisons that were asked for one after the other, without those that others contain;
            ``comparison`` has the policies, attacks, numbers and seeds of all.
    """

    comparison: Comparison
    runs: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(RUN_COLUMNS)))
    curves: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(CURVE_COLUMNS)))
    failed: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=[*RUN, "error"]))
    expected: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(RUN)))
    told: list[Told] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=library_versions)
    imports: Sequence[str] = ()
    setting: str = ""
    stored: pd.DataFrame = field(default_factory=pd.DataFrame)
    configuration: dict[str, Any] = field(default_factory=dict)
    machines: Sequence[str] = ()
    folder: Path | None = None
    asked: Sequence[Comparison] = ()

    def played(self, num_byzantine: int) -> list[str]:
        """The policies with runs at this number of Byzantine workers, references last."""
        found = set(self.runs.loc[self.runs["num_byzantine"] == num_byzantine, "policy"])
        policies = [policy for policy in self.comparison.policies if policy in found]
        return sorted(policies, key=lambda policy: policy in self.references)

    def absent(self, num_byzantine: int) -> list[str]:
        """The policies that were asked for at this number of Byzantine workers and have no finished run."""
        asked = set(self.expected.loc[self.expected["num_byzantine"] == num_byzantine, "policy"])
        return [
            policy for policy in self.comparison.policies if policy in asked - set(self.played(num_byzantine))
        ]

    @property
    def played_numbers(self) -> list[int]:
        """The numbers of Byzantine workers with runs."""
        return [f for f in self.comparison.num_byzantine if self.played(f)]

    @cached_property
    def faults(self) -> list[str]:
        """The attacks that are faults in transmission, under which no worker is Byzantine.

        What an attack is that is not registered here, the threat models of its runs say.
        """
        return [attack for attack in self.comparison.attacks if self._is_fault(attack)]

    def _is_fault(self, attack: str) -> bool:
        if (known := corrupts_transmissions(attack)) is not None:
            return known
        runs = self.stored[self.stored["attack"] == attack] if len(self.stored) else self.stored
        return bool(len(runs)) and "transmission" in json.loads(runs["threat_model"].iloc[0])["attack_target"]

    def heading(self, num_byzantine: int, attacks: Sequence[str] | None = None) -> str:
        """How many workers are Byzantine under some of the attacks (all where None), as headings say it."""
        comparison, attacks = self.comparison, self.comparison.attacks if attacks is None else attacks
        faults = [attack for attack in attacks if attack in self.faults]
        size = comparison.cohort_size
        cohort = "" if size is None else f", {size} take part in a round"
        if len(faults) == len(attacks):
            told = f"rules told f = {num_byzantine}"
            return (
                f"faults in transmission, none of {comparison.num_workers} workers Byzantine, {told}{cohort}"
            )
        who = f"{num_byzantine} of {comparison.num_workers} workers"
        if comparison.roles == "static":
            who = f"{who} Byzantine{cohort}"
        else:
            who = f"{who} assigned to be Byzantine, roles {comparison.roles}{cohort}"
        return f"{who} (none under {', '.join(faults)})" if faults else who

    def panel(self, attacks: Sequence[str], numbers: Sequence[int], workers: str = "") -> str:
        """What the title of a panel says, see `panel_heading`."""
        return panel_heading(attacks, numbers, self.faults, workers)

    def label(self, policy: str) -> str:
        """The policy's name as tables and figures show it."""
        return f"{policy} (reference)" if policy in self.references else policy

    def errors(self, policy: str, attack: str, num_byzantine: int) -> list[str]:
        """The errors of a cell's failed runs, each once."""
        return list(dict.fromkeys(_cell(self.failed, policy, attack, num_byzantine)["error"]))

    def counts(self, policy: str, attack: str, num_byzantine: int) -> tuple[int, int]:
        """How many runs of a cell are finished, and how many have been asked for."""
        cell = policy, attack, num_byzantine
        return len(_cell(self.runs, *cell)), len(_cell(self.expected, *cell))

    @property
    def threat_models(self) -> list[dict[str, Any]]:
        """The threat-model records of the finished runs, see `threat_model.records`."""
        from byzgym.experiments import threat_model

        return threat_model.records(self.stored)

    @property
    def unfinished(self) -> str:
        """How much of what was asked for is there, such as "2 of 7 runs, 1 failed"; "" where it is all.

        It counts whatever was ever asked for in the setting, because reports show all of that, and says where
        only earlier commands asked for what is missing.
        """
        if len(self.runs) >= len(self.expected):
            return ""
        failed = f", {len(self.failed)} failed" if len(self.failed) else ""
        earlier = "; earlier commands asked for the rest" if self.last_is_finished else ""
        return f"{len(self.runs)} of {len(self.expected)} runs{failed}{earlier}"

    @property
    def last_is_finished(self) -> bool:
        """Whether all runs are there that the last command in this setting asked for."""
        if "last" not in self.expected:
            return len(self.runs) >= len(self.expected)
        last, done = (
            set(table[list(RUN)].itertuples(index=False, name=None))
            for table in (self.expected[self.expected["last"]], self.runs)
        )
        return last <= done

    @property
    def command(self) -> str:
        """The command lines that play what was asked for, without a results folder: one, or a line for each.

        One does it wherever every policy was to meet every attack with every seed.
        """
        whole = len(self.expected) in (0, len(list(self.comparison.runs())))
        comparisons = [self.comparison] if whole else self.asked
        return "\n".join(command(self.imports, "compare", *options(one, Comparison)) for one in comparisons)

    @classmethod
    def read(cls, folder: str | Path) -> Results:
        """The results of the setting for which a comparison was last asked in a folder.

        Raises:
            FileNotFoundError: If it holds no store.
            ValueError: If that is no store, or one without comparisons.
        """
        from byzgym.experiments.store import Store

        with Store(folder) as store:
            return read_all(store)[-1]


def panel_heading(
    attacks: Sequence[str], numbers: Sequence[int], faults: Sequence[str], workers: str = ""
) -> str:
    """What the title of a panel says of the numbers f of Byzantine workers under some attacks.

    Under a fault in transmission nobody is Byzantine, and rules are told the f all the same.

    Args:
        attacks: Those that the panel shows.
        numbers: The f that it shows.
        faults: Attacks that are faults in transmission.
        workers: Of how many workers, where it says so.

    Example:
        >>> panel_heading(["ipm"], [3, 7], [])
        'f = 3, 7'
        >>> panel_heading(["gambler"], [3], ["gambler"])
        'none Byzantine, rules told f = 3'
        >>> panel_heading(["ipm", "gambler"], [3], ["gambler"], workers="10")
        'f = 3 of 10 workers (none under gambler)'
    """
    faults = [attack for attack in attacks if attack in faults]
    f, of = f"f = {', '.join(map(str, numbers))}", f" of {workers} workers" if workers else ""
    if faults and len(faults) == len(attacks):
        return f"none{of} Byzantine, rules told {f}"
    return f + of + (f" (none under {', '.join(faults)})" if faults else "")


def _cell(table: pd.DataFrame, policy: str, attack: str, num_byzantine: int) -> pd.DataFrame:
    of = (table["policy"] == policy) & (table["attack"] == attack)
    return table[of & (table["num_byzantine"] == num_byzantine)]


def read_all(store: Store) -> list[Results]:
    """The results of every setting in a store, the one that was last asked for last.

    What was asked for at different times in one setting (more seeds, other policies) is shown together. Of a
    setting that was played with several versions of the code only the last one is shown.

    Raises:
        ValueError: If there are none, or they are not what byzgym has written.
    """
    from byzgym.experiments.store import DamagedError

    settings: dict[str, list[dict[str, Any]]] = {}
    for entry in store.asked():
        settings[entry["setting"]] = [*settings.pop(entry["setting"], []), entry]
    if not settings:
        raise ValueError(f"{store.path} holds no comparison")
    try:
        latest: dict[str, str] = {}
        for setting, asked in settings.items():
            latest.pop(_without_lists(asked[-1]), None)  # of other code; the order is that of asking
            latest[_without_lists(asked[-1])] = setting
        return [_read(store, setting, settings[setting]) for setting in latest.values()]
    except DamagedError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{store.path} holds something else than comparisons: {error}") from None


def _read(store: Store, setting: str, asked: Sequence[Mapping[str, Any]]) -> Results:
    from byzgym.experiments.store import curves

    comparisons = [Comparison(**entry["comparison"]) for entry in asked]
    rows = [
        pd.DataFrame(comparison.runs(), columns=list(RUN)).assign(key=entry["runs"], last=entry is asked[-1])
        for comparison, entry in zip(comparisons, asked, strict=True)
    ]
    wanted = pd.concat(rows, ignore_index=True)
    # A model that was trained again, or code of the user that has changed, makes other runs of the same
    # names: those that were asked for last count.
    expected = wanted[list(RUN)].drop_duplicates()
    expected = expected.merge(wanted.drop_duplicates(list(RUN), keep="last"), on=list(RUN))
    comparison = _together(comparisons)
    # In the order of what was asked for, whatever was finished first.
    table = expected[["key"]].reset_index().merge(store.table(setting), on="key").sort_values("index")
    done, failed = table[table["status"] == "done"], table[table["status"] == "failed"]
    last = asked[-1]
    return Results(
        comparison,
        done[list(RUN_COLUMNS)].reset_index(drop=True).astype(RUN_COLUMNS),
        curves(done),
        failed[[*RUN, "error"]].reset_index(drop=True),
        expected,
        list(dict.fromkeys(Told(**told) for entry in asked for told in entry["told"])),
        [name for name in comparison.policies if any(name in entry["refs"] for entry in asked)],
        list(dict.fromkeys(note for entry in asked for note in entry["notes"])),
        last["versions"],
        list(dict.fromkeys(name for entry in asked for name in entry["imports"])),
        setting,
        done.drop(columns="index").reset_index(drop=True),
        _configuration(table),
        sorted(set(done["machine"])),
        store.path.parent,
        _without_parts(comparisons),
    )


def _configuration(table: pd.DataFrame) -> dict[str, Any]:
    """What all runs of a setting have in common, of rows of the store."""
    held = json.loads(table["configuration"].iloc[0]) if len(table) else {}
    return {name: value for name, value in held.items() if name not in (*RUN, "files")}


_LISTS = ("policies", "attacks", "num_byzantine")


def _without_lists(entry: Mapping[str, Any]) -> str:
    """What the runs of a comparison have in common, as text."""
    left_out = (*_LISTS, "seeds", "first_seed")
    return repr(sorted((k, v) for k, v in entry["comparison"].items() if k not in left_out))


def _together(comparisons: Sequence[Comparison]) -> Comparison:
    """One comparison with the policies, attacks, numbers and seeds of all, which differ in nothing else."""
    first = min(comparison.first_seed for comparison in comparisons)
    last = max(comparison.first_seed + comparison.seeds for comparison in comparisons)
    lists: Any = {
        name: tuple(dict.fromkeys(value for one in comparisons for value in getattr(one, name)))
        for name in _LISTS
    }
    return replace(comparisons[0], first_seed=first, seeds=last - first, **lists)


def _without_parts(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons whose runs are not all among those of another one."""
    kept: list[tuple[Comparison, set[Any]]] = []
    for comparison in comparisons:
        runs = set(comparison.runs())
        if not any(runs <= others for _, others in kept):
            kept = [(one, others) for one, others in kept if not others <= runs] + [(comparison, runs)]
    return [comparison for comparison, _ in kept]


_DRAWN = re.compile(
    r"((overview|breakdown|settings|(accuracy|final|profile|detection|credits)_f\d+)\.(png|pdf|svg))"
    r"|report\.(html|md)|threat_model\.(json|md)",
    re.ASCII,
)


def drawings(folder: Path) -> list[Path]:
    """The files of a folder that have names of figures or reports."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _DRAWN.fullmatch(path.name) and path.is_file())


def make_room(folder: Path) -> None:
    """Make a folder for figures and reports, and remove those of earlier results.

    Raises:
        WriteError: If it cannot be written to.
    """
    try:
        folder.mkdir(exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        discard_drawings(folder)
    except OSError as error:
        raise WriteError(
            f"cannot write a report into {folder}: {error.strerror or error}; make the folder writable, or "
            "report a copy of its runs.sqlite in another one"
        ) from error


def discard_drawings(folder: Path) -> None:
    """Remove the figures and reports of earlier results, and nothing else."""
    for path in drawings(folder):
        path.unlink()
