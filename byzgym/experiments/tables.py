"""The tables of a comparison: built here once, shown by `report` in a terminal, in Markdown and in HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from byzgym import specs
from byzgym.attacks.registry import registry as attack_registry
from byzgym.experiments.config import corrupts_transmissions
from byzgym.experiments.results import Results
from byzgym.experiments.statistics import LEVEL, paired_difference, summarise

_DIFFERENCES = (
    "Accuracy of the policy with the highest mean over attacks, less that of each other one, in points of "
    f"percent. Seeds are paired, attacks are averaged within a seed; in brackets the {LEVEL:.0%} t interval "
    "over seeds, not corrected for the choice of the leader or for the number of comparisons."
)
_DETECTION = (
    "Credit on Byzantine workers in the last tenth of the rounds / ROC AUC of low credit as a detector of "
    "Byzantine workers in the last half of the rounds (1: always right, 0.5: chance, 0: always wrong). Means "
    "over seeds; – where there are no credits, or no Byzantine workers."
)
_DIVERGED = "a run diverged: parameters not finite, or a QV loss at the end 1000 times that at the start"


@dataclass(frozen=True)
class Signs:
    """The signs of a table; the defaults need Unicode and bold type."""

    diverged: str = "†"
    spread: str = "±"
    footnotes: Sequence[str] = "¹²³⁴⁵⁶⁷⁸⁹"
    best: str = ""  # behind the best entries; they are bold where it is empty

    def footnote(self, number: int) -> str:
        """The mark of a footnote, numbered from 0."""
        return self.footnotes[number] if number < len(self.footnotes) else f"({number + 1})"


@dataclass(frozen=True)
class Cell:
    """An entry, the marks behind it, and whether it is the best of its column."""

    text: str
    marks: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A policy: its name with the mark of its footnote, and its entries."""

    name: str
    cells: list[Cell]
    reference: bool


@dataclass(frozen=True)
class Table:
    """Policies (rows, references last) under attacks (columns, after that of the names)."""

    title: str
    columns: list[str]
    notes: list[str]
    rows: list[Row] = field(default_factory=list)


def accuracy_table(results: Results, num_byzantine: int, signs: Signs = Signs()) -> Table:
    """Accuracy at the end of the runs."""
    comparison, policies = results.comparison, results.played(num_byzantine)
    summary = summarise(results.runs, num_byzantine)
    # To six digits, so that equal means compare as equal.
    means = {key: round(entry["mean"], 6) for key, entry in summary.items()}
    title = f"{comparison.task}, {comparison.heading(num_byzantine)}"
    table = Table(title, ["policy", *comparison.attacks], [_caption(results, signs)])
    told: dict[str, list[str]] = {}
    for line in results.told:
        if line.num_byzantine == num_byzantine:
            told.setdefault(line.policy, []).append(str(line))
    marks: dict[str, str] = {}  # of footnotes
    ranked = [policy for policy in policies if policy not in results.references]
    for policy in policies:
        cells = []
        for attack in comparison.attacks:
            entry = summary[policy, attack]
            spread = "" if math.isnan(entry["std"]) else f" {signs.spread} {100 * entry['std']:.1f}"
            best = policy in ranked and means[policy, attack] == max(means[name, attack] for name in ranked)
            mark = (signs.diverged if entry["diverged"] else "") + (signs.best if best else "")
            cells.append(Cell(f"{100 * entry['mean']:.1f}{spread}", mark, best))
        name = results.label(policy)
        for text in told.get(policy, ()):
            name += " " + marks.setdefault(text, signs.footnote(len(marks)))
        table.rows.append(Row(name, cells, policy in results.references))
    table.notes.extend(f"{mark} {text}" for text, mark in marks.items())
    if any(entry["diverged"] for entry in summary.values()):
        table.notes.append(f"{signs.diverged} {_DIVERGED}")
    table.notes.extend(results.notes)
    table.notes.extend(_notes_on_faults(comparison.attacks, policies))
    table.notes.extend(_notes_on_z(comparison.attacks, comparison.num_workers, num_byzantine))
    return table


def difference_table(results: Results, num_byzantine: int) -> Table:
    """Paired differences to the policy of the highest mean accuracy over attacks; no rows without one."""
    attacks, policies = results.comparison.attacks, results.played(num_byzantine)
    summary = summarise(results.runs, num_byzantine)
    ranked = [policy for policy in policies if policy not in results.references]
    first = max(ranked, key=lambda name: sum(summary[name, attack]["mean"] for attack in attacks), default="")
    columns = {"mean of all attacks": attacks}
    if len(attacks) > 1:
        columns |= {attack: (attack,) for attack in attacks}
    table = Table("Paired differences", [f"{first} less ...", *columns], [_DIFFERENCES])
    for policy in policies if first else ():
        if policy == first:
            continue
        cells = []
        for chosen in columns.values():
            difference = paired_difference(results.runs, first, policy, chosen, num_byzantine)
            mean, low, high = (100 * accuracy for accuracy in difference)
            cells.append(Cell(f"{mean:+.1f}" + ("" if math.isnan(low) else f" [{low:+.1f}, {high:+.1f}]")))
        table.rows.append(Row(results.label(policy), cells, policy in results.references))
    return table


def detection_table(results: Results, num_byzantine: int) -> Table:
    """Byzantine credit and detection AUC of the policies that give credits."""
    attacks = results.comparison.attacks
    summary = summarise(results.runs, num_byzantine)
    table = Table("Credits and detection", ["policy", *attacks], [_DETECTION])
    for policy in results.played(num_byzantine):
        cells = []
        for attack in attacks:
            pair = (summary[policy, attack][name] for name in ("byzantine_credit", "detection_auc"))
            cells.append(Cell(" / ".join("–" if math.isnan(value) else f"{value:.2f}" for value in pair)))
        if any(cell.text != "– / –" for cell in cells):
            table.rows.append(Row(results.label(policy), cells, policy in results.references))
    return table


def _caption(results: Results, signs: Signs) -> str:
    seeds = results.comparison.seeds
    spread = f" {signs.spread} standard deviation over {seeds} seeds" if seeds > 1 else " of one seed"
    best = f"best marked {signs.best}" if signs.best else "best in bold"
    aside = ", references aside" if results.references else ""
    return f"test accuracy in %{spread}, after {results.comparison.rounds} rounds; {best}{aside}"


def _notes_on_faults(attacks: Sequence[str], policies: Sequence[str]) -> list[str]:
    """Under which attacks nobody is Byzantine, and what the oracle is then."""
    faults = [attack for attack in attacks if corrupts_transmissions(attack)]
    if not faults:
        return []
    oracle = ", and the oracle is the mean of what they sent" if "oracle" in policies else ""
    names = ", ".join(faults)
    return [f"{names}: faults in transmission hit any worker; no worker is Byzantine{oracle}"]


def _notes_on_z(attacks: Sequence[str], num_workers: int, num_byzantine: int) -> list[str]:
    """The z of attacks such as alie, which follows from n and f; they attack only where it is positive."""
    notes = []
    for attack in attacks if num_byzantine else ():
        name = specs.parse(attack)["name"]
        if name in attack_registry.names() and hasattr(attack_registry.factory(name), "effective_z"):
            made: Any = attack_registry.make_from(attack)
            z = made.effective_z(num_workers, num_byzantine)
            note = f"{attack}: z = {z:.2f} for n={num_workers}, f={num_byzantine}"
            notes.append(note if z > 0 else f"warning: {note}: it does not attack")
    return notes
