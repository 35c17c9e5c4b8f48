"""Threat-model records: what a result says about robustness, and under which assumptions.

"Robust" alone cannot be checked: a claim names the rule, the number of workers, the fraction of them that may
be bad, how they are sampled, what is assumed of their data, the attack and the metric. For what such a record
should hold see NIST AI 100-2, "Adversarial Machine Learning: A Taxonomy and Terminology of Attacks and
Mitigations" (https://doi.org/10.6028/NIST.AI.100-2e2025). `record` reads all of it off a run that has been
played, and the store keeps it with the run. `FIELDS` and `RUN_FIELDS` describe the entries.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from byzgym.agents import Agent
from byzgym.agents.base import name_of
from byzgym.agents.registry import registry as agent_registry
from byzgym.aggregation import Rule
from byzgym.aggregation.registry import parse
from byzgym.aggregation.registry import registry as rule_registry
from byzgym.attacks import DataPoisoning, Triggered
from byzgym.attacks.registry import registry as attack_registry
from byzgym.experiments import escaping
from byzgym.experiments.config import measured
from byzgym.files import write_texts
from byzgym.registry import Registry, describe
from byzgym.simulation import Simulation
from byzgym.simulation.config import NamedAttack, is_fault
from byzgym.specs import parse as parse_spec

VERSION = 1
"""Of the fields below."""
FILES = ("threat_model.json", "threat_model.md")
NOT_DECLARED = "not declared"
"""What stands for a property that somebody's own rule or attack may have and does not state."""
_NOT_PROVIDED = "not provided"

SECTIONS: dict[str, dict[str, str]] = {
    "Policy": {
        "policy": "Its name with parameters; pre-aggregators stand in front of a rule.",
        "policy_origin": "byzgym, or user: registered from outside, and known by what it declares.",
        "policy_kind": "rule, agent, or reference: a reference sees who is Byzantine and is no defence.",
        "inner_policies": "Policies that it asks for their decisions, with the f that rules are told.",
        "condition": "What the rule demands of n submissions and the f that it is told; null where it "
        "demands nothing, and of agents.",
        "claims": "What the rule claims, in the words of byzgym.properties; null of agents.",
        "told_num_byzantine": "The f that the rule is told; null where it makes no use of f.",
        "told_qv_samples": "Trusted samples of the server (QV samples, or root data) that it may judge by; 0 "
        "where it reads none.",
        "keeps_memory": "Whether it keeps anything from round to round.",
        "gives_credits": "Whether its update is a weighted sum of the submissions, so that it says whom it "
        "trusts.",
    },
    "Workers": {
        "num_workers": "Number of workers (clients).",
        "tolerated_num_byzantine": "The largest number of bad submissions that the rule's own condition "
        "admits; null where it states no bound.",
        "tolerated_fraction": "The same as a share of the submissions of a round.",
        "actual_num_byzantine": "Workers that are assigned to be Byzantine; 0 under a fault in transmission.",
        "actual_fraction": "The same as a share of the workers.",
        "within_bound": "Whether the bad submissions that are expected in a round, rounded up, are at most "
        "the tolerated ones and those the rule was told; null where there is no bound, and under a fault in "
        "transmission, which can hit anybody.",
        "roles": "When assigned workers attack; other roles than static change who is Byzantine.",
    },
    "Sampling": {
        "cohort_size": "Workers that take part in a round, drawn uniformly without replacement.",
        "num_submissions": "Submissions that the server sees in a round, of workers or of groups.",
        "batch_size": "Samples of a worker's batch, drawn with replacement.",
        "local_steps": "Steps of a worker in a round.",
        "rounds": "Rounds of a run.",
        "qv_size": "Trusted samples that the server holds.",
        "qv_source": "Where they come from.",
        "qv_period": "Rounds after which the server draws new ones; null is never.",
        "num_servers": "Servers, each of which aggregates a block of the parameters.",
    },
    "Data": {
        "task": "The data.",
        "model": "The model.",
        "partition": "How the workers share the training data; iid is the assumption of most proofs.",
    },
    "Attack": {
        "attack": "Its name with parameters.",
        "attack_origin": "byzgym, or user: registered from outside, and known by what it declares.",
        "attack_target": "What it changes: submissions, data (of Byzantine workers), transmission (of "
        "anybody's submission, and no worker is Byzantine).",
        "attack_knowledge": "What of the server it is shown, beside what every attack is: all honest "
        "submissions of the round, the learning rate, the last update, who is Byzantine, and n and f.",
        "roles_knowledge": "The same for the function that decides when workers attack.",
        "backdoor": "Whether it is a backdoor, whose success is measured on triggered test samples.",
    },
    "Evaluation": {
        "metric": "What the results are, and how a run that diverged counts.",
    },
    "Controls": {
        "non_finite_updates": "What happens to submissions, and steps, with a NaN or infinite entry.",
        "update_bound": "How the rule or what stands in front of it bounds the norm of one submission.",
        "client_authentication": "How the server knows who sends.",
        "sybil_resistance": "What is done against one attacker who appears as many workers.",
        "secure_group_size": "The server sees only means over groups of so many workers; 1 is every worker.",
        "secure_aggregation": "The same in words.",
        "evidence": "What the store keeps of each run.",
    },
}
FIELDS = {name: text for section in SECTIONS.values() for name, text in section.items()}
"""What each entry of a record means."""
RUN_FIELDS = {
    "key": "Primary key of the run in runs.sqlite: the hash of its full configuration and of the code.",
    "seed": "Of the run.",
    "unit": "What was played side by side, a key of the table units.",
    "code": "The version of byzgym with a hash of its sources.",
    "machine": "What it was played on.",
    "finished": "When, in UTC.",
    "accuracy": "Accuracy after the last round, from 0 to 1, also of a run that diverged; see metric.",
    "attack_success_rate": "Of a backdoor, from 0 to 1; null of other attacks.",
    "qv_loss": "Loss on the server's trusted samples.",
    "byzantine_credit": "Credit on Byzantine submissions in the last tenth of the rounds; null without any.",
    "detection_auc": "ROC AUC of low credit as a detector of Byzantine workers; null without credits.",
    "diverged": "Whether the parameters stopped being finite, or the loss exploded.",
}
"""What each entry of a run in a record means."""


def record(
    policy: str,
    task: str,
    agent: Agent,
    simulation: Simulation,
    env: int = 0,
    credits: bool | None = None,
) -> dict[str, Any]:
    """The threat model of a run: an entry for each of `FIELDS`.

    Args:
        policy: The name of the policy, with parameters.
        task: The name of the task, with parameters.
        agent: The policy, as `agents.build` makes it for the simulation.
        simulation: Where it decides.
        env: The environment of the run.
        credits: Whether the run has credits; None: what the agent says. (The oracle has none under a fault.)

    Example:
        >>> from byzgym import agents
        >>> simulation = Simulation.make(task="synthetic", num_byzantine=4, attack="ipm")
        >>> entry = record("krum", "synthetic", agents.build("krum", simulation), simulation)
        >>> entry["tolerated_num_byzantine"], entry["actual_num_byzantine"], entry["within_bound"]
        (3, 4, False)
    """
    setup = simulation.setup
    attack = simulation.workers.attacks[int(simulation.workers.attack_of[env])]
    numbers = _numbers(agent, simulation, env, attack)
    found = {**_policy(policy, agent, simulation), **numbers, **_attack(attack, simulation)}
    group = setup.secure_group_size
    gives = bool(agent.linear) if credits is None else credits
    found |= {
        "gives_credits": gives,
        "roles": setup.roles_name,
        "cohort_size": setup.cohort_size,
        "num_submissions": simulation.num_rows,
        **{name: getattr(setup, name) for name in ("batch_size", "local_steps", "rounds", "qv_size")},
        **{name: getattr(setup, name) for name in ("qv_period", "num_servers", "model")},
        "qv_source": setup.qv_source_name,
        "task": task,
        "partition": setup.partition_name,
        "metric": f"{measured(task)} after round {setup.rounds}; a run that diverged counts as a guess, "
        f"1/{setup.task.num_classes}",
        "non_finite_updates": "such submissions are rejected; steps to such parameters are refused",
        "client_authentication": f"{_NOT_PROVIDED}: the simulation knows which worker sends a row",
        "secure_group_size": group,
        "secure_aggregation": f"{_NOT_PROVIDED}: the server sees every submission"
        if group == 1
        else f"simulated, without cryptography: the server sees means over groups of {group} workers",
        "evidence": _evidence(gives, numbers["actual_num_byzantine"] > 0),
    }
    return {name: found[name] for name in FIELDS}


def records(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The threat models of finished runs, each once, with "runs", a list: of each run its `RUN_FIELDS`.

    Args:
        runs: Finished runs with the columns of a store, as `Results.stored` has them.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for row in runs.to_dict("records"):
        run = {name: _plain(row[name]) for name in RUN_FIELDS} | {"diverged": bool(row["diverged"])}
        found.setdefault(row["threat_model"], []).append(run)
    held = [(json.loads(text), listed) for text, listed in found.items()]
    return [{**{name: entry[name] for name in FIELDS}, "runs": listed} for entry, listed in held]


def as_json(entries: Sequence[Mapping[str, Any]]) -> str:
    """Records as a JSON document, which says what its entries mean."""
    document = {"schema": "byzgym threat model", "version": VERSION, "fields": FIELDS}
    return json.dumps({**document, "run_fields": RUN_FIELDS, "records": entries}, indent=1) + "\n"


def as_markdown(entries: Sequence[Mapping[str, Any]]) -> str:
    """Records as a Markdown document: what they have in common, then tables of what differs."""
    lines = ["# Threat model", ""]
    if not entries:
        return "\n".join([*lines, "No run is finished.", ""])
    common, differing = split(entries)
    runs = sum(len(entry["runs"]) for entry in entries)
    lines += [f"Finished runs: {runs}, combinations of policy and attack: {len(entries)}. All have:", ""]
    for section, fields in SECTIONS.items():
        values = {name: escaping.plain(text(common[name])) for name in fields if name in common}
        shown = [f"- {label(name)}: {value}" for name, value in values.items()]
        lines += [f"## {section}", "", *shown, ""] if shown else []
    policies = [name for name in differing if name in {**SECTIONS["Policy"], **SECTIONS["Controls"]}]
    policies = [name for name in policies if name != "told_num_byzantine"]  # which depends on the true f
    attacks = [name for name in differing if name in SECTIONS["Attack"]]
    others = [name for name in differing if name not in {*policies, *attacks}]
    for title, columns in (("Policies", policies), ("Attacks", attacks)):
        different = dict.fromkeys(tuple(text(entry[name]) for name in columns) for entry in entries)
        if len(columns) > 1:  # more than the name
            lines += [f"## {title}", "", *_table(columns, different), ""]
    columns = ["policy", "attack", *others]
    rows = [[*(text(entry[name]) for name in columns), *_mean(entry["runs"])] for entry in entries]
    lines += ["## Results", "", *_table([*columns, "runs", "accuracy"], rows), ""]
    lines += ["Accuracy: mean of the runs as they ended. A dash: none, or does not apply.", ""]
    meaning = [f"- {label(name)}: {meaning}" for name, meaning in FIELDS.items() if name in differing]
    return "\n".join([*lines, *meaning, ""])


def split(entries: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """What records have in common, and the names of the fields in which they differ; policy and attack do."""
    first = entries[0]
    same = {name for name in FIELDS if all(entry[name] == first[name] for entry in entries)}
    same -= {"policy", "attack"}
    return {name: first[name] for name in FIELDS if name in same}, [
        name for name in FIELDS if name not in same
    ]


def write(entries: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write `FILES` into a folder, both or none."""
    paths = [folder / name for name in FILES]
    write_texts(dict(zip(paths, (as_json(entries), as_markdown(entries)), strict=True)))
    return paths


def _policy(policy: str, agent: Agent, simulation: Simulation) -> dict[str, Any]:
    decides = _decides(agent)
    rule = decides if isinstance(decides, Rule) else None
    ours = _is_ours(policy)
    undeclared = _NOT_PROVIDED if ours else NOT_DECLARED
    needs = getattr(decides, "needs", None)
    if agent.reference:
        needs = getattr(decides, "needs", frozenset())
    bounds = [_bound(part) for part in _parts(decides)]
    sybils = next(
        (part.sybil_resistance for part in _parts(decides) if _says(part, "sybil_resistance")), None
    )
    return {
        "policy": policy,
        "policy_origin": "byzgym" if ours else "user",
        "policy_kind": "reference" if agent.reference else "agent" if rule is None else "rule",
        "inner_policies": [_inner(one) for one in agent.inner],
        "condition": None if rule is None or rule.condition == Rule.condition else rule.condition,
        "claims": None if rule is None else sorted(rule.claims),
        "told_num_byzantine": rule.num_byzantine if rule is not None and rule.uses_num_byzantine else None,
        "told_qv_samples": NOT_DECLARED if needs is None else simulation.setup.qv_size * ("qv" in needs),
        "keeps_memory": NOT_DECLARED if needs is None else "memory" in needs,
        "update_bound": "; ".join(filter(None, bounds)) or undeclared,
        "sybil_resistance": sybils or undeclared,
    }


def _numbers(agent: Agent, simulation: Simulation, env: int, attack: NamedAttack) -> dict[str, Any]:
    """How many workers may be bad, and how many are."""
    setup, rows, rule = simulation.setup, simulation.num_rows, _decides(agent)
    tolerated, told = None, rows
    if isinstance(rule, Rule) and rule.condition != Rule.condition:
        tolerated = rule.max_byzantine(rows)
        told = rule.num_byzantine if rule.uses_num_byzantine else rows
    fault = is_fault(attack.attack)
    actual = 0 if fault else int(simulation.workers.assigned[env].sum())
    expected = min(rows, math.ceil(actual * setup.cohort_size / setup.num_workers))
    return {
        "num_workers": setup.num_workers,
        "tolerated_num_byzantine": tolerated,
        "tolerated_fraction": None if tolerated is None else _share(tolerated, rows),
        "actual_num_byzantine": actual,
        "actual_fraction": _share(actual, setup.num_workers),
        "within_bound": None if tolerated is None or fault else expected <= min(tolerated, told),
    }


def _attack(attack: NamedAttack, simulation: Simulation) -> dict[str, Any]:
    acts: Any = attack.attack
    target = ["transmission"] if is_fault(acts) else ["submissions"]
    if isinstance(acts, DataPoisoning):
        # Some change what their workers send, too.
        changes = type(acts).corrupt is not DataPoisoning.corrupt
        target = ["data", "submissions"] if changes else ["data"]
    return {
        "attack": attack.name,
        "attack_origin": "byzgym" if _is_built_in(attack_registry, parse_spec(attack.name)) else "user",
        "attack_target": target,
        "attack_knowledge": sorted(getattr(acts, "knowledge", ())),
        "roles_knowledge": sorted(getattr(simulation.setup.roles, "knowledge", ())),
        "backdoor": isinstance(acts, Triggered),
    }


def _evidence(credits: bool, byzantine: bool) -> list[str]:
    kept = ["full configuration", "hashes of configuration and code", "curve", "what was played side by side"]
    if credits:
        kept.append("credits of every round, and who was Byzantine")
    if credits and byzantine:
        kept.append("detection AUC")
    return kept


def _decides(agent: Agent) -> Any:
    """What decides: the policy inside an adapter, or the agent."""
    policy = getattr(agent, "policy", None)
    return agent if policy is None else policy


def _parts(policy: Any) -> list[Any]:
    """The pre-aggregators of a policy and its rule; the policy itself where nothing stands in front."""
    chain = getattr(policy, "chain", None)
    return [policy] if chain is None else [*chain.members, policy.rule]


def _bound(part: Any) -> str | None:
    return part.update_bound.format_map(vars(part)) if _says(part, "update_bound") else None


def _says(part: Any, name: str) -> bool:
    return isinstance(getattr(part, name, None), str)


def _inner(agent: Agent) -> str:
    rule = _decides(agent)
    told = isinstance(rule, Rule) and rule.uses_num_byzantine
    return f"{name_of(agent)} (told f = {rule.num_byzantine})" if told else name_of(agent)


def _is_ours(policy: str) -> bool:
    """Whether a policy, its rule and what stands in front come with byzgym."""
    from byzgym.aggregation.pre.registry import registry as pre_registry

    spec = parse(policy)
    behind = any(_is_built_in(registry, spec) for registry in (agent_registry, rule_registry))
    before = (parse_spec(one if isinstance(one, str) else describe(one)) for one in spec.get("pre", ()))
    return behind and all(_is_built_in(pre_registry, one) for one in before)


def _is_built_in(registry: Registry[Any], spec: Mapping[str, Any]) -> bool:
    return registry.is_built_in(spec["name"])


def _share(count: int, total: int) -> float:
    return float(f"{count / total:.4g}")


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it."""
    value = value.item() if hasattr(value, "item") else value
    return None if value is None or value != value else value


def label(name: str) -> str:
    """The name of a field as tables show it.

    >>> label("tolerated_num_byzantine"), label("num_workers"), label("qv_size")
    ('tolerated f', 'workers', 'QV size')
    """
    return name.replace("num_byzantine", "f").replace("num_", "").replace("qv", "QV").replace("_", " ")


def text(value: Any) -> str:
    """The value of a field as tables show it."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def _mean(runs: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """How many runs there are, and their mean accuracy."""
    return str(len(runs)), f"{sum(run['accuracy'] for run in runs) / len(runs):.3f}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return escaping.table([label(name) for name in columns], [list(map(escaping.plain, row)) for row in rows])
