"""The numbers that figures show, for those in files and those in pages alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from byzgym.experiments.estimates import worst_case
from byzgym.experiments.results import Results
from byzgym.experiments.statistics import counted, summarise

WORST = "worst case"
"""Stands for an attack: the lowest mean over seeds among all attacks."""


def curves(results: Results, attack: str, num_byzantine: int) -> dict[str, pd.DataFrame]:
    """For each policy that has runs, mean and std over seeds of the accuracy (0 to 1), by round.

    The std of a single seed is 0.
    """
    table = results.curves
    here = table[(table["attack"] == attack) & (table["num_byzantine"] == num_byzantine)]
    found = {}
    for policy in results.played(num_byzantine):
        rounds = here[here["policy"] == policy].groupby("round")["accuracy"]
        if len(rounds):
            found[policy] = pd.DataFrame({"mean": rounds.mean(), "std": rounds.std(ddof=1).fillna(0.0)})
    return found


def final(results: Results, num_byzantine: int, policies: Sequence[str]) -> pd.DataFrame:
    """Accuracy at the end, mean over seeds (0 to 1): policies x the worst case and the attacks.

    NaN where there are no runs; there is no worst case where an attack is missing.
    """
    attacks = results.comparison.attacks
    runs = results.runs[results.runs["num_byzantine"] == num_byzantine]
    summary = summarise(runs, num_byzantine, attacks)
    worst = worst_case(runs, resamples=0)["value"]
    columns = {WORST: [float(worst.get(policy, math.nan)) for policy in policies]}
    for attack in attacks:
        means = (summary.get((policy, attack), {}).get("mean", math.nan) for policy in policies)
        columns[attack] = list(means)
    return pd.DataFrame(columns, index=pd.Index(policies, name="policy"))


def breakdown(results: Results) -> pd.DataFrame:
    """Accuracy at the end against f: policy, attack (or `WORST`), num_byzantine, mean and std over seeds.

    The worst case is another attack from f to f, and its std is that of the runs under this attack.
    """
    scores = counted(results.runs).groupby(["policy", "num_byzantine", "attack"])["accuracy"]
    means, stds = scores.mean(), scores.std(ddof=1).fillna(0.0)
    rows = []
    for f in results.played_numbers:
        worst = worst_case(results.runs[results.runs["num_byzantine"] == f], resamples=0)["attack"]
        for policy in results.played(f):
            attacks = {attack: attack for attack in results.comparison.attacks}
            for shown, attack in ({WORST: worst[policy]} | attacks).items():
                key = policy, f, attack
                if key in means.index:
                    rows.append((policy, shown, f, float(means[key]), float(stds[key])))
    return pd.DataFrame(rows, columns=["policy", "attack", "num_byzantine", "mean", "std"])


def detected(results: Results, num_byzantine: int) -> tuple[list[str], list[str]]:
    """The policies that give credits, and the attacks under which some worker is Byzantine."""
    runs = results.runs[results.runs["num_byzantine"] == num_byzantine].dropna(subset=["byzantine_credit"])
    known = {name: set(runs[name]) for name in ("policy", "attack")}
    policies = [policy for policy in results.played(num_byzantine) if policy in known["policy"]]
    return policies, [attack for attack in results.comparison.attacks if attack in known["attack"]]


def worst_cases(found: Sequence[Results], policies: Sequence[str]) -> dict[tuple[int, int], list[float]]:
    """The worst case over attacks (0 to 1) of these policies, by the number of a setting from 0 and f."""
    return {
        (number, f): final(results, f, policies)[WORST].tolist()
        for number, results in enumerate(found)
        for f in results.played_numbers
    }


def best(results: Results, most: int) -> list[str]:
    """The policies of the best worst case, mean over f, the best one first; references aside.

    Those without a worst case, because an attack is missing, come last.
    """
    policies = [policy for policy in results.comparison.policies if policy not in results.references]
    worst = worst_cases([results], policies).values()
    # To six digits, so that equal values compare as equal.
    means = {policy: round(sum(values), 6) for policy, *values in zip(policies, *worst, strict=True)}
    order = {policy: math.inf if math.isnan(mean) else -mean for policy, mean in means.items()}
    return sorted(policies, key=order.__getitem__)[:most]


def setting_maps(
    found: Sequence[Results], policies: Sequence[str]
) -> tuple[list[int], dict[str, np.ndarray]]:
    """The numbers f that were played in any setting, and for each policy its worst cases, [settings, f].

    With a single f there is one map, [settings, policies], under the name "".
    """
    worst = worst_cases(found, policies)
    numbers = sorted({f for _, f in worst})
    nothing = [math.nan] * len(policies)
    table = np.array([[worst.get((number, f), nothing) for f in numbers] for number in range(len(found))])
    if len(numbers) == 1:
        return numbers, {"": table[:, 0]}
    return numbers, {policy: table[:, :, place] for place, policy in enumerate(policies)}
