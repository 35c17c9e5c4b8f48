"""The tables of a comparison: built here once, shown by `report` in a terminal, in Markdown and in HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from byzgym import specs
from byzgym.aggregation.registry import parse
from byzgym.aggregation.registry import registry as rule_registry
from byzgym.attacks.registry import registry as attack_registry
from byzgym.experiments.estimates import (
    RESAMPLES,
    interquartile_mean,
    probability_of_improvement,
    same_seeds,
    worst_case,
)
from byzgym.experiments.results import Results
from byzgym.experiments.statistics import LEVEL, counted, paired_difference, summarise

_DIFFERENCES = (
    "Accuracy of the policy with the highest mean over attacks, less that of each other one, in points of "
    "percent. Seeds are paired, attacks are averaged within a seed"
)
_DIFFERENCE_INTERVALS = (
    f"; in brackets the {LEVEL:.0%} t interval over seeds, not corrected for the choice of the leader or for "
    "the number of comparisons"
)
_DETECTION = (
    "Credit on Byzantine workers in the last tenth of the rounds / ROC AUC of low credit as a detector of "
    "Byzantine workers in the last half of the rounds (1: always right, 0.5: chance, 0: always wrong). Means "
    "over seeds; – where there are no credits, or no Byzantine workers."
)
_SUCCESS = (
    "Share in % of the test samples without the target label that get it once they bear the trigger, mean "
    "over seeds: low is good."
)
_DIVERGED = (
    "a run diverged: parameters not finite, or a QV loss at the end 1000 times that at the start. "
    "It counts as chance, 1 / number of classes"
)
_FEW_SEEDS = 5
"""With fewer seeds notes warn of the intervals: a resample has (n - 1) / n of the variance of n values."""


@dataclass(frozen=True)
class Signs:
    """The signs of a table; the defaults need Unicode and bold type."""

    diverged: str = "†"
    spread: str = "±"
    footnotes: Sequence[str] = "¹²³⁴⁵⁶⁷⁸⁹"
    best: str = ""  # behind the best entries; they are bold where it is empty
    missing: str = "–"
    failed: str = "✗"

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


def summary_table(results: Results, num_byzantine: int, signs: Signs = Signs(), named: bool = True) -> Table:
    """Each policy over all attacks: worst case, interquartile mean, probability to beat the best rule.

    ``named`` adds a column that names the worst attack.
    """
    policies = results.played(num_byzantine)
    runs = results.runs[results.runs["num_byzantine"] == num_byzantine]
    joint = same_seeds(runs)
    worst = worst_case(runs, joint=joint).T.to_dict()
    middle = interquartile_mean(runs, joint=joint).T.to_dict()
    diverged = runs.groupby(["policy", "attack"])["diverged"].any().to_dict()
    rule = _best_rule(policies, runs, worst)
    title = f"{results.comparison.task}, {results.heading(num_byzantine)}: all attacks"
    table = Table(title, ["policy", "worst case", "IQM"], _notes_on_estimates(results, runs, rule, signs))
    beats: Mapping[Any, Mapping[Any, Any]] = {}
    if rule:
        table.columns.append("beats best rule")
        beats = probability_of_improvement(runs, rule, joint=joint).T.to_dict()
    if named:
        table.columns.append("worst attack")
    ranked = [policy for policy in policies if policy not in results.references]
    for policy in policies:
        attack, cells = worst[policy]["attack"], []
        marked = (diverged.get((policy, attack)), any(diverged.get((policy, a)) for a in runs["attack"]))
        for entries, mark in zip((worst, middle), marked, strict=True):
            values = {name: round(100 * entries[name]["value"], 4) for name in ranked}
            best = policy in ranked and values[policy] == _highest(values.values())
            marks = (signs.diverged if mark else "") + (signs.best if best else "")
            cells.append(Cell(_with_interval(entries[policy], 1, signs), marks, best))
        if rule:
            text = signs.missing if policy == rule else _with_interval(beats[policy], 0, signs)
            cells.append(Cell(text))
        if named:
            cells.append(
                Cell(attack if isinstance(attack, str) else signs.missing)
            )  # NaN where there is none
        table.rows.append(Row(results.label(policy), cells, policy in results.references))
    for policy in results.absent(num_byzantine):
        cells = [Cell(signs.missing) for _ in table.columns[1:]]
        table.rows.append(
            Row(f"{results.label(policy)} (no finished runs)", cells, policy in results.references)
        )
    if any(diverged.values()):
        table.notes.append(f"{signs.diverged} a run diverged and counts as chance")
    if unfinished := results.unfinished:
        table.notes.append(f"warning: unfinished: {unfinished}; {signs.missing} where an attack is missing")
    return table


def accuracy_table(results: Results, num_byzantine: int, signs: Signs = Signs()) -> Table:
    """Accuracy at the end of the runs."""
    comparison, absent = results.comparison, results.absent(num_byzantine)
    policies = results.played(num_byzantine) + absent
    summary = summarise(results.runs, num_byzantine, comparison.attacks, absent)
    # To six digits, so that equal means compare as equal.
    means = {key: round(entry["mean"], 6) for key, entry in summary.items()}
    title = f"{comparison.task}, {results.heading(num_byzantine)}"
    table = Table(title, ["policy", *comparison.attacks], [_caption(results, signs)])
    told: dict[str, list[str]] = {}
    for line in results.told:
        if line.num_byzantine == num_byzantine:
            told.setdefault(line.policy, []).append(str(line))
    marks: dict[str, str] = {}  # of footnotes
    failures: list[str] = []
    some = (0, 0)  # runs of an unfinished cell, and how many were asked for
    ranked = [policy for policy in policies if policy not in results.references]
    for policy in policies:
        cells = []
        for attack in comparison.attacks:
            entry = summary[policy, attack]
            spread = "" if math.isnan(entry["std"]) else f" {signs.spread} {100 * entry['std']:.1f}"
            best = policy in ranked and means[policy, attack] == _highest(
                means[name, attack] for name in ranked
            )
            mark = (signs.diverged if entry["diverged"] else "") + (signs.best if best else "")
            cell = policy, attack, num_byzantine
            errors = results.errors(*cell) if results.unfinished else []
            failures += [error for error in errors if error not in failures]
            text = signs.missing if math.isnan(entry["mean"]) else f"{100 * entry['mean']:.1f}{spread}"
            if results.unfinished and (counts := results.counts(*cell))[0] < counts[1]:
                text += f" ({counts[0]} of {counts[1]})"
                some = max(some, counts)
            cells.append(Cell(text, mark + (signs.failed if errors else ""), best))
        name = results.label(policy)
        for text in told.get(policy, ()):
            name += " " + marks.setdefault(text, signs.footnote(len(marks)))
        table.rows.append(Row(name, cells, policy in results.references))
    table.notes.extend(f"{mark} {text}" for text, mark in marks.items())
    if any(entry["diverged"] for entry in summary.values()):
        table.notes.append(f"{signs.diverged} {_DIVERGED}")
    table.notes.extend(f"{signs.failed} failed: {error}" for error in failures)
    if some[1]:
        theirs = ", and its numbers are theirs" if some[0] else ""
        table.notes.append(f"({some[0]} of {some[1]}): so many runs of a cell are finished{theirs}")
    table.notes.extend(results.notes)
    table.notes.extend(_notes_on_faults(results.faults, policies))
    table.notes.extend(_notes_on_z(comparison.attacks, comparison.num_workers, num_byzantine))
    return table


def difference_table(results: Results, num_byzantine: int) -> Table:
    """Paired differences to the policy of the highest mean accuracy over attacks; no rows without one."""
    attacks, policies = results.comparison.attacks, results.played(num_byzantine)
    summary = summarise(results.runs, num_byzantine, attacks)
    means = {
        policy: sum(summary[policy, attack]["mean"] for attack in attacks)
        for policy in policies
        if policy not in results.references
    }
    whole = [policy for policy, mean in means.items() if not math.isnan(mean)]
    first = max(whole, key=means.__getitem__, default="")
    columns = {"mean of all attacks": attacks}
    if len(attacks) > 1:
        columns |= {attack: (attack,) for attack in attacks}
    table = Table("Paired differences", [f"{first} less ...", *columns], [])
    for policy in policies if first else ():
        if policy == first:
            continue
        cells = []
        for chosen in columns.values():
            difference = paired_difference(results.runs, first, policy, chosen, num_byzantine)
            mean, low, high = (100 * accuracy for accuracy in difference)
            interval = "" if math.isnan(low) else f" [{low:+.1f}, {high:+.1f}]"
            cells.append(Cell("–" if math.isnan(mean) else f"{mean:+.1f}{interval}"))
        table.rows.append(Row(results.label(policy), cells, policy in results.references))
    several = any("[" in cell.text for row in table.rows for cell in row.cells)
    intervals = _DIFFERENCE_INTERVALS if several else "; one seed gives no intervals"
    table.notes.append(f"{_DIFFERENCES}{intervals}.")
    return table


def detection_table(results: Results, num_byzantine: int) -> Table:
    """Byzantine credit and detection AUC of the policies that give credits."""
    attacks = results.comparison.attacks
    summary = summarise(results.runs, num_byzantine, attacks)
    table = Table("Credits and detection", ["policy", *attacks], [_DETECTION])
    for policy in results.played(num_byzantine):
        cells = []
        for attack in attacks:
            pair = (summary[policy, attack][name] for name in ("byzantine_credit", "detection_auc"))
            cells.append(Cell(" / ".join("–" if math.isnan(value) else f"{value:.2f}" for value in pair)))
        if any(cell.text != "– / –" for cell in cells):
            table.rows.append(Row(results.label(policy), cells, policy in results.references))
    return table


def success_table(results: Results, num_byzantine: int) -> Table:
    """How often backdoors succeed at the end of the runs; no rows where no attack is one."""
    runs = results.runs[results.runs["num_byzantine"] == num_byzantine].dropna(subset=["attack_success_rate"])
    rates = runs.groupby(["policy", "attack"])["attack_success_rate"].mean().to_dict()
    attacks = [attack for attack in results.comparison.attacks if attack in set(runs["attack"])]
    table = Table("Success of backdoors", ["policy", *attacks], [_SUCCESS])
    for policy in results.played(num_byzantine) if attacks else ():
        found = [100 * rates.get((policy, attack), math.nan) for attack in attacks]
        cells = [Cell("–" if math.isnan(rate) else f"{rate:.1f}") for rate in found]
        table.rows.append(Row(results.label(policy), cells, policy in results.references))
    return table


def _best_rule(policies: Sequence[str], runs: pd.DataFrame, worst: Mapping[Any, Mapping[Any, Any]]) -> str:
    """The classical rule of the best worst case, among equals that of the highest mean; "" if there is none.

    Classical is a rule that judges without the server's QV samples.
    """
    means = counted(runs).groupby("policy")["accuracy"].mean()
    rules = []
    for policy in policies:
        name = parse(policy)["name"]
        known = name in rule_registry.names()
        if known and "qv" not in getattr(rule_registry.factory(name), "needs", ()):
            rules.append(policy)
    # To six digits, so that equal values compare as equal.
    whole = [rule for rule in rules if not math.isnan(worst[rule]["value"])]
    return max(whole, key=lambda rule: (round(worst[rule]["value"], 6), round(means[rule], 6)), default="")


def _highest(values: Iterable[float]) -> float:
    """The highest of the values that there are; NaN without any."""
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def _with_interval(estimate: Mapping[Any, Any], digits: int, signs: Signs) -> str:
    """An estimate in %, with its interval in brackets if it has one."""
    if math.isnan(estimate["value"]):
        return signs.missing
    numbers = [f"{100 * estimate[name]:.{digits}f}" for name in ("value", "low", "high")]
    # Without its digits 100 is no wider than the others, and the table fits into 80 columns.
    value, low, high = ("100" if float(number) == 100 else number for number in numbers)
    return value if math.isnan(estimate["low"]) else f"{value} [{low}, {high}]"


def _notes_on_estimates(results: Results, runs: pd.DataFrame, rule: str, signs: Signs) -> list[str]:
    counts = {name: runs[name].nunique() for name in ("attack", "seed")}
    product = " x ".join(f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items())
    played = runs.groupby("policy").size()
    whole = bool((played == math.prod(counts.values())).all())
    runs_of = f"{played.max()} runs ({product})" if whole else "runs, of which not all policies have the same"
    notes = [
        f"{results.comparison.measured} after {results.comparison.rounds} rounds. Worst case: mean over "
        "seeds under the attack where that is lowest. IQM, interquartile mean: mean of the middle half of a "
        f"policy's {runs_of}. {_best(results, signs).capitalize()}."
    ]
    if (seeds := counts["seed"]) > 1:
        few = f"; {seeds} seeds are few, and the intervals too narrow" if seeds < _FEW_SEEDS else ""
        how = "each with its runs under all attacks" if same_seeds(runs) else "for each attack by itself"
        notes.append(
            f"In brackets {LEVEL:.0%} bootstrap intervals, of {RESAMPLES} resamples of the seeds, drawn "
            f"{how}{few}."
        )
    else:
        notes.append("One seed gives no intervals.")
    if rule:
        notes.append(
            f"Beats best rule: probability in % that a run beats one of {rule} under the same attack; ties "
            f"count half, seeds are paired. Of the rules without QV samples, {rule} has the best worst case "
            "(among equals, the highest mean); intervals are not corrected for that choice."
        )
    return notes


def _caption(results: Results, signs: Signs) -> str:
    counts = results.runs.groupby(["policy", "attack", "num_byzantine"])["seed"].nunique()
    seeds = f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else str(counts.max())
    spread = f" {signs.spread} standard deviation over {seeds} seeds" if counts.max() > 1 else " of one seed"
    what = f"{results.comparison.measured.lower()}{spread}"
    return f"{what}, after {results.comparison.rounds} rounds; {_best(results, signs)}"


def _best(results: Results, signs: Signs) -> str:
    best = f"best marked {signs.best}" if signs.best else "best in bold"
    return best + (", references aside" if results.references else "")


def _notes_on_faults(faults: Sequence[str], policies: Sequence[str]) -> list[str]:
    """Under which attacks nobody is Byzantine, and what the oracle is then."""
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
