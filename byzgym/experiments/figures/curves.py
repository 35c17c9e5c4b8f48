"""Lines: accuracy over rounds, accuracy against f, and performance profiles."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from byzgym.experiments import series
from byzgym.experiments.estimates import performance_profile, same_seeds
from byzgym.experiments.figures.style import (
    Palette,
    dress,
    fitted,
    folded,
    label_ends,
    legend_below,
    legend_beside,
)
from byzgym.experiments.results import Results
from byzgym.experiments.statistics import counted

_BAND: dict[str, Any] = {"alpha": 0.13, "linewidth": 0}


def overview(results: Results, palette: Palette) -> Figure:
    """Accuracy over rounds under one attack (sign_flip where it was played), with every line labelled."""
    comparison, (num_byzantine, attack) = results.comparison, shown_first(results, palette.highlighted)
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    values = _curves(axes, results, attack, num_byzantine, palette)
    axes.set(xlabel="round", ylabel="accuracy", ylim=fitted(values))
    title = f"{comparison.task}, attack {attack}, {results.heading(num_byzantine, [attack])}"
    axes.set_title(folded(title, 90), loc="left", fontsize=12)
    label_ends(axes, {palette.entry(name) for name in comparison.policies if not palette.is_named(name)})
    return figure


def shown_first(results: Results, highlighted: Collection[str] = ()) -> tuple[int, str]:
    """The f and the attack of the overview: the largest f that was played, sign_flip before other attacks.

    Where policies are highlighted, those that most of them have played.
    """
    numbers, attacks = results.played_numbers, results.comparison.attacks
    runs = results.runs
    runs = runs[runs["policy"].isin(highlighted)] if highlighted else runs.assign(policy="any")
    played = runs.groupby(["num_byzantine", "attack"])["policy"].nunique()
    order = [(f, attack) for f in reversed(numbers) for attack in _first(attacks, "sign_flip")]
    return max(order, key=lambda panel: int(played.get(panel, 0)))


def accuracy_over_rounds(results: Results, num_byzantine: int, palette: Palette) -> Figure:
    """One panel an attack: mean accuracy over seeds, with bands of one std where there are few lines."""
    comparison = results.comparison
    figure, panels = _panels(len(comparison.attacks))
    values = []
    for axes, attack in zip(panels, comparison.attacks, strict=True):
        values += _curves(axes, results, attack, num_byzantine, palette)
        title = f"{attack}, {results.panel([attack], [num_byzantine])}"
        axes.set_title(folded(title, 40), loc="left", fontsize=11)
    for axes in panels:
        axes.set_ylim(fitted(values))
    title = f"{comparison.task}: accuracy over rounds, {results.heading(num_byzantine)}"
    _finish(figure, panels, title, "round", "accuracy")
    return figure


def breakdown(results: Results, palette: Palette) -> Figure:
    """Accuracy at the end against the number f of Byzantine workers, for the worst attack and for each."""
    comparison, table = results.comparison, series.breakdown(results)
    policies = _every_policy(results)
    banded = palette.banded(policies)
    shown = [series.WORST, *comparison.attacks] if len(comparison.attacks) > 1 else [*comparison.attacks]
    figure, panels = _panels(len(shown))
    numbers, values = results.played_numbers, []
    for axes, attack in zip(panels, shown, strict=True):
        for policy in palette.ordered(policies):
            own = table[(table["policy"] == policy) & (table["attack"] == attack)]
            mean, std, line = own["mean"], own["std"], palette.line(policy)
            if policy in banded:
                axes.fill_between(
                    own["num_byzantine"],
                    (mean - std).clip(0, 1),
                    (mean + std).clip(0, 1),
                    color=line.color,
                    **_BAND,
                )
                values += [(mean - std).clip(0, 1), (mean + std).clip(0, 1)]
            values.append(mean)
            marks = {"marker": "o", "markersize": 4, "label": palette.entry(policy)}
            axes.plot(own["num_byzantine"], mean, **marks, **line.matplotlib)
        about = comparison.attacks if attack == series.WORST else [attack]
        axes.set_title(folded(f"{attack}, {results.panel(about, numbers)}", 40), loc="left", fontsize=11)
        axes.set_xticks(numbers)
        dress(axes)
    for axes in panels:
        axes.set_ylim(fitted(values))
    who = results.panel(comparison.attacks, numbers, str(comparison.num_workers))
    _finish(figure, panels, f"{comparison.task}: accuracy against f, {who}", "f", "accuracy")
    return figure


def profiles(results: Results, num_byzantine: int, palette: Palette) -> Figure:
    """Performance profiles: the share of each policy's runs, under all attacks, above an accuracy."""
    runs = counted(results.runs[results.runs["num_byzantine"] == num_byzantine])
    policies = results.played(num_byzantine)
    low, high = fitted([runs["accuracy"]])
    thresholds = np.linspace(low, high, 401)
    banded = palette.banded(policies)
    profile = performance_profile(runs, thresholds, joint=same_seeds(runs), resamples=2000 if banded else 0)
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    for policy in palette.ordered(policies):
        own, line = profile[profile["policy"] == policy], palette.line(policy)
        if policy in banded and own["low"].notna().all():
            axes.fill_between(thresholds, own["low"], own["high"], step="post", color=line.color, **_BAND)
        style = {"drawstyle": "steps-post", "label": palette.entry(policy), **line.matplotlib}
        axes.plot(thresholds, own["value"], **style)
    axes.set(xlim=(low, high), ylim=(-0.02, 1.02), yticks=[0, 0.25, 0.5, 0.75, 1])
    axes.set(xlabel="accuracy", ylabel="share of runs above it")
    dress(axes, "both")
    attacks = ", ".join(results.comparison.attacks)
    title = f"{results.comparison.task}, {results.heading(num_byzantine)}, attacks {attacks}"
    axes.set_title(folded(title, 80), loc="left", fontsize=11)
    legend_beside(axes)
    return figure


def _every_policy(results: Results) -> list[str]:
    """Those that were played with any f, references last."""
    played = {policy for f in results.played_numbers for policy in results.played(f)}
    policies = [policy for policy in results.comparison.policies if policy in played]
    return sorted(policies, key=lambda policy: policy in results.references)


def _first(names: Sequence[str], name: str) -> list[str]:
    """The names with this one in front, if it is among them."""
    return sorted(names, key=lambda one: one != name)


def _curves(axes: Any, results: Results, attack: str, num_byzantine: int, palette: Palette) -> list[Any]:
    """Draw a line for each policy, some with bands; returns all heights that are drawn."""
    found, heights = series.curves(results, attack, num_byzantine), []
    banded = palette.banded(results.played(num_byzantine))
    for policy in palette.ordered(found):
        line, mean, std = palette.line(policy), found[policy]["mean"], found[policy]["std"]
        if policy in banded:
            axes.fill_between(
                mean.index, (mean - std).clip(0, 1), (mean + std).clip(0, 1), color=line.color, **_BAND
            )
            heights += [(mean - std).clip(0, 1), (mean + std).clip(0, 1)]
        heights.append(mean)
        axes.plot(mean.index, mean, label=palette.entry(policy), **line.matplotlib)
    axes.set_xlim(0, results.comparison.rounds)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    dress(axes)
    return heights or [math.nan]


def _panels(count: int) -> tuple[Figure, list[Any]]:
    columns = 2 if count == 4 else min(count, 4 if -count % 4 < -count % 3 else 3)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(0.6 + 4.2 * columns, 0.8 + 2.5 * rows))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, list(grid.flat[:count])


def _finish(figure: Figure, panels: list[Any], title: str, x: str, y: str) -> None:
    """Name the outer axes, and put a title above the panels and a legend below."""
    columns = panels[0].get_subplotspec().get_gridspec().ncols
    for number, axes in enumerate(panels):
        if number % columns == 0:
            axes.set_ylabel(y)
        if number + columns >= len(panels):
            axes.set_xlabel(x)
            axes.tick_params(labelbottom=True)
    figure.tight_layout()
    figure.suptitle(folded(title, 50 * columns), x=0.01, y=1.0, ha="left", va="bottom", fontsize=12)
    legend_below(figure, {1: 2, 2: 4}.get(columns, 7))
