"""What is known of a comparison: its runs, as a report shows them, and what of it is still missing."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

import byzgym
from byzgym.experiments.config import Comparison, command, corrupts_transmissions, options

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
        from byzgym.experiments.reading import read_all
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
