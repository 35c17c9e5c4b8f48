"""Which tables a report has, in the order in which it shows them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from byzgym.experiments import series, threat_model
from byzgym.experiments.figures.maps import every_policy, label, measured
from byzgym.experiments.results import RUN, Results
from byzgym.experiments.tables import (
    Cell,
    Row,
    Table,
    accuracy_table,
    detection_table,
    difference_table,
    success_table,
    summary_table,
)

Tables = dict[int, list[tuple[int, Table]]]
"""For each f its tables, the summary first, with the levels of their headings."""


def tables_of(results: Results) -> Tables:
    """The tables of a setting; their bootstrap intervals take a while."""
    return {f: _tables(results, f) for f in results.played_numbers}


def _tables(results: Results, num_byzantine: int) -> list[tuple[int, Table]]:
    parts = [
        (2, summary_table),
        (3, accuracy_table),
        (3, success_table),
        (3, difference_table),
        (3, detection_table),
    ]
    tables = [(level, build(results, num_byzantine)) for level, build in parts]
    return [(level, table) for level, table in tables if table.rows]


def breakdown_table(results: Results) -> Table:
    """The worst case of each policy against f; no rows where there is only one f."""
    numbers = results.played_numbers
    title = f"{results.comparison.task}: worst case over attacks, against f"
    who = results.panel(results.comparison.attacks, numbers, str(results.comparison.num_workers))
    note = f"{results.comparison.measured}, mean over seeds under the worst attack; {who}."
    table = Table(title, ["policy", *(f"f = {f}" for f in numbers)], [note])
    policies = every_policy([results]) if len(numbers) > 1 else []
    found = series.worst_cases([results], policies)
    columns = [_marked(dict(zip(policies, found[0, f], strict=True)), results) for f in numbers]
    for number, policy in enumerate(policies):
        cells = [column[number] for column in columns]
        table.rows.append(Row(results.label(policy), cells, policy in results.references))
    return table


def settings_table(found: Sequence[Results], names: Sequence[str]) -> Table:
    """The settings of a sweep with each f: the worst case of every policy, and how much is finished."""
    policies = every_policy(found)
    worst = series.worst_cases(found, policies)
    note = f"{measured(found)}, mean over seeds under the worst attack. A setting's name leads to its report."
    columns = ["setting", "f", *(label(found, policy) for policy in policies), "runs"]
    table = Table("Worst case over attacks", columns, [note])
    for number, (results, name) in enumerate(zip(found, names, strict=True)):
        for f in results.played_numbers:
            cells = _marked(dict(zip(policies, worst[number, f], strict=True)), results)
            table.rows.append(Row(name, [Cell(str(f)), *cells, Cell(_finished(results, f))], False))
        if results.runs.empty:
            missing = [Cell("–") for _ in policies]
            table.rows.append(Row(name, [Cell("–"), *missing, Cell(results.unfinished)], False))
    return table


def _finished(results: Results, num_byzantine: int) -> str:
    """How many runs with this f are finished, and of how many if there are more."""
    tables = (results.runs, results.expected, results.failed)
    done, asked, failed = (int((table["num_byzantine"] == num_byzantine).sum()) for table in tables)
    return f"{done}{f' of {asked}' if done < asked else ''}{f', {failed} failed' if failed else ''}"


def failures_table(found: Sequence[Results]) -> Table:
    """The runs that failed, with their errors; no rows without any."""
    table = Table("Failed runs", ["policy", "f", "attack", "seeds", "error"], [])
    for results in found:
        cells: Any = results.failed.groupby([*RUN[:-1], "error"], sort=False)["seed"]
        for (policy, f, attack, error), seeds in cells:
            entries = [str(f), attack, " ".join(map(str, sorted(seeds))), error]
            table.rows.append(Row(policy, [Cell(entry) for entry in entries], False))
    return table


def details(results: Results) -> list[Table]:
    """What was played, and with what, for the end of a report."""
    return common_details([results]) + _threat_model(results.threat_models)


def common_details(found: Sequence[Results]) -> list[Table]:
    """Configuration, versions and machine of several settings, with all values where these differ."""
    configuration, versions = [], []
    for results in found:
        comparison = results.comparison
        own = {
            "policies": " ".join(comparison.policies),
            "attacks": " ".join(comparison.attacks),
            "num_byzantine": " ".join(map(str, comparison.num_byzantine)),
            "seeds": f"{comparison.first_seed} to {comparison.first_seed + comparison.seeds - 1}",
        }
        held = dict(results.configuration)
        code = {"code": held.pop("code")} if "code" in held else {}
        machines = {"machine": "; ".join(results.machines)} if results.machines else {}
        configuration.append({**own, **held})
        versions.append({**results.versions, **code, **machines})
    made = _together(versions)
    made["time of all runs"] = f"{sum(float(results.runs['seconds'].sum()) for results in found):.0f} s"
    return [
        _pairs("Configuration", "setting", _together(configuration)),
        _pairs("Versions and machine", "what", made),
    ]


def _together(found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The values of several mappings, each once."""
    names = dict.fromkeys(name for values in found for name in values)
    shown = {name: [_shown(values[name]) for values in found if name in values] for name in names}
    return {name: "; ".join(dict.fromkeys(values)) for name, values in shown.items()}


def _threat_model(found: Sequence[Mapping[str, Any]]) -> list[Table]:
    """What the results say of robustness: what is the same for all policies and attacks, and what is not."""
    if not found:
        return []
    common, differing = threat_model.split(found)
    same = {threat_model.label(name): threat_model.text(value) for name, value in common.items()}
    # What is kept of each run takes much room; threat_model.md has it.
    columns = [name for name in differing if name not in ("policy", "evidence")]
    title, note = (
        "Threat model of each policy and attack",
        "threat_model.md beside this page explains the columns.",
    )
    table = Table(title, ["policy", *map(threat_model.label, columns)], [note])
    for entry in found:
        cells = [Cell(threat_model.text(entry[name])) for name in columns]
        table.rows.append(Row(entry["policy"], cells, entry["policy_kind"] == "reference"))
    return [_pairs("Threat model", "of all policies and attacks", same), table]


def _marked(accuracies: Mapping[str, float], results: Results) -> list[Cell]:
    """Accuracies of policies in %, the best one marked, references aside."""
    values = {policy: round(value, 6) for policy, value in accuracies.items()}
    ranked = [value for policy, value in values.items() if policy not in results.references]
    best = max((value for value in ranked if not math.isnan(value)), default=math.nan)
    return [
        Cell(_percent(value), best=policy not in results.references and value == best)
        for policy, value in values.items()
    ]


def _pairs(title: str, kind: str, values: Mapping[str, object]) -> Table:
    rows = [Row(name, [Cell(_shown(value))], False) for name, value in values.items()]
    return Table(title, [kind, "value"], [], rows)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"
