"""Heat maps of accuracies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from byzgym.experiments import series
from byzgym.experiments.figures.style import folded, shortened_apart
from byzgym.experiments.results import Results, panel_heading

WIDE = 34
"""Letters of a line of a setting's name beside a map."""


def final_accuracy(results: Results, num_byzantine: int) -> Figure:
    """Policies x attacks, with the worst case first: accuracy at the end, mean over seeds."""
    policies = results.played(num_byzantine)
    table = series.final(results, num_byzantine, policies)
    if len(results.comparison.attacks) == 1:
        table = table.drop(columns=series.WORST)
    figure = Figure(figsize=(2.4 + 1.25 * len(table.columns), 1.0 + 0.42 * len(policies)))
    axes = figure.subplots()
    image = _map(axes, table.to_numpy(), limits([table.to_numpy()]))
    _name(axes, shortened_apart([results.label(policy) for policy in policies]), list(map(str, table)))
    if series.WORST in table:
        axes.axvline(0.5, color="white", linewidth=4)
    references = sum(policy in results.references for policy in policies)
    if 0 < references < len(policies):
        axes.axhline(len(policies) - references - 0.5, color="white", linewidth=4)
    heading = results.heading(num_byzantine)
    title = f"{results.comparison.task}: {results.comparison.measured.lower()}, {heading}"
    axes.set_title(folded(title, 24 + 12 * len(table.columns)), loc="left", fontsize=11)
    _bar(figure, image, [axes])
    return figure


def settings(found: Sequence[Results], names: Sequence[str]) -> Figure:
    """The settings of a sweep x f, a panel a policy: the worst case over attacks.

    With a single f there is one map, settings x policies.
    """
    policies = every_policy(found)
    numbers, maps = series.setting_maps(found, policies)
    columns = list(map(str, numbers)) if len(numbers) > 1 else [label(found, policy) for policy in policies]
    ends = limits(list(maps.values()))
    across = min(len(maps), 4)
    down = math.ceil(len(maps) / across)
    rows = [folded(name, WIDE) for name in names]
    lines = max(name.count("\n") for name in rows) + 1
    size = 0.8 + 0.75 * len(columns), 1.0 + max(0.42, 0.18 * lines) * len(found)
    figure = Figure(figsize=(1.5 + across * size[0], down * size[1]), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes in grid.flat[len(maps) :]:
        axes.set_visible(False)
    panels = list(grid.flat[: len(maps)])
    for axes, (policy, part) in zip(panels, maps.items(), strict=True):
        image = _map(axes, part, ends)
        _name(axes, rows, columns)
        if policy:
            axes.set_title(label(found, policy), loc="left", fontsize=11)
            axes.set_xlabel("f")
    worst = f"the worst of the attacks {', '.join(attacks(found))}"
    title = f"{tasks(found)}: {measured(found).lower()}, {worst}; {who(found, numbers)}"
    figure.suptitle(folded(title, int(14 * figure.get_figwidth())), x=0.01, ha="left", fontsize=12)
    _bar(figure, image, panels)
    return figure


def every_policy(found: Sequence[Results]) -> list[str]:
    """The policies of several settings that were played, references last."""
    played = dict.fromkeys(
        policy for results in found for f in results.played_numbers for policy in results.played(f)
    )
    references = {policy for results in found for policy in results.references}
    return sorted(played, key=lambda policy: policy in references)


def label(found: Sequence[Results], policy: str) -> str:
    """A policy's name in figures and tables of several settings."""
    known = next(results for results in found if policy in results.comparison.policies)
    return known.label(policy)


def tasks(found: Sequence[Results]) -> str:
    """The tasks of several settings."""
    return ", ".join(dict.fromkeys(str(results.comparison.task) for results in found))


def attacks(found: Sequence[Results]) -> list[str]:
    """The attacks of several settings."""
    return list(dict.fromkeys(attack for results in found for attack in results.comparison.attacks))


def measured(found: Sequence[Results]) -> str:
    """What the accuracies of several settings are."""
    different = {results.comparison.measured for results in found}
    return different.pop() if len(different) == 1 else "Accuracy in %"


def who(found: Sequence[Results], numbers: Sequence[int]) -> str:
    """How many workers are Byzantine in several settings."""
    workers = " or ".join(map(str, sorted({results.comparison.num_workers for results in found})))
    return panel(found, numbers, workers)


def panel(found: Sequence[Results], numbers: Sequence[int], workers: str = "") -> str:
    """What the title of a panel says of several settings, see `panel_heading`."""
    faults = [attack for results in found for attack in results.faults]
    return panel_heading(attacks(found), numbers, faults, workers)


def limits(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """The accuracies at the ends of a map's colours: those of the data, but at least five points apart."""
    values = np.concatenate([part.ravel() for part in maps])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    missing = max(0.0, 0.05 - (high - low)) / 2
    return max(0.0, low - missing), min(1.0, high + missing)


def _map(axes: Any, values: np.ndarray, ends: tuple[float, float]) -> Any:
    image = axes.imshow(values, cmap="cividis", vmin=ends[0], vmax=ends[1], aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        dark = value < ends[0] + 0.55 * (ends[1] - ends[0])
        color = "white" if dark else "black"  # also where there is none
        shown = "–" if math.isnan(value) else f"{100 * value:.1f}"
        axes.text(column, row, shown, ha="center", va="center", color=color, fontsize=10)
    return image


def _name(axes: Any, rows: Sequence[str], columns: Sequence[str]) -> None:
    slanted = max(map(len, columns)) >= 12
    axes.set_xticks(range(len(columns)), shortened_apart(columns))
    if slanted:
        axes.tick_params(axis="x", labelrotation=25)
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _bar(figure: Figure, image: Any, panels: Sequence[Any]) -> None:
    percent = FuncFormatter(lambda value, position: f"{100 * value:.3g}")
    bar = figure.colorbar(image, ax=panels, pad=0.03, format=percent)
    bar.outline.set_visible(False)
