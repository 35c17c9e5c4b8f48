"""Interactive lines: accuracy over rounds, accuracy against f, and performance profiles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from byzgym.experiments import series
from byzgym.experiments.estimates import performance_profile, same_seeds
from byzgym.experiments.figures.curves import shown_first
from byzgym.experiments.figures.maps import every_policy
from byzgym.experiments.figures.style import Line, Palette, fitted
from byzgym.experiments.report.plots import base
from byzgym.experiments.report.plots.base import Group, Plot
from byzgym.experiments.results import Results
from byzgym.experiments.statistics import counted


def accuracy_over_rounds(results: Results, num_byzantine: int, palette: Palette) -> Group:
    """Accuracy over rounds, a panel an attack."""
    comparison = results.comparison
    _, first = shown_first(results, palette.highlighted)
    attacks = sorted(comparison.attacks, key=lambda attack: attack != first)
    panels, heights = {}, []
    banded = palette.banded(results.played(num_byzantine))
    for attack in attacks:
        data: list[dict[str, Any]] = []
        found = series.curves(results, attack, num_byzantine)
        for policy in palette.layers(found):
            mean, std = found[policy]["mean"], found[policy]["std"]
            drawn = _Drawn(palette, policy, results.label(policy))
            if policy in banded:
                low, high = (mean - std).clip(0, 1), (mean + std).clip(0, 1)
                data += drawn.band(mean.index, low, high)
                heights += [low, high]
            heights.append(mean)
            shown = "round %{x}: %{y:.1%}" + _spread(results)
            data.append(drawn.line(mean.index, mean, shown) | {"customdata": base.rounded(std)})
        panels[attack] = data
    span = fitted(heights or [math.nan])
    layout = base.layout("round", "accuracy", y=span)
    plots = [
        Plot(f"{attack}, {results.panel([attack], [num_byzantine])}", data, layout)
        for attack, data in panels.items()
    ]
    bands = "; bands are one standard deviation" if banded else ""
    caption = f"Mean over seeds{bands}. As measured, also of runs that diverged. {_clicks(palette)}"
    heading = f"Accuracy over rounds, {results.heading(num_byzantine)}"
    return Group(heading, caption, plots, _legend(results.played(num_byzantine), palette))


def breakdown(results: Results, palette: Palette) -> Group:
    """Accuracy against f, for the worst attack and for each."""
    comparison, table = results.comparison, series.breakdown(results)
    policies = every_policy([results])
    banded = palette.banded(policies)
    attacks = [series.WORST, *comparison.attacks] if len(comparison.attacks) > 1 else [*comparison.attacks]
    panels: dict[str, list[dict[str, Any]]] = {}
    heights = [table["mean"]]
    for attack in attacks:
        panels[attack] = []
        for policy in palette.layers(policies):
            own = table[(table["policy"] == policy) & (table["attack"] == attack)]
            f, mean, std = own["num_byzantine"], own["mean"], own["std"]
            drawn = _Drawn(palette, policy, results.label(policy))
            if policy in banded:
                low, high = (mean - std).clip(0, 1), (mean + std).clip(0, 1)
                panels[attack] += drawn.band(f, low, high)
                heights += [low, high]
            line = drawn.line(f, mean, "f = %{x}: %{y:.1%}" + _spread(results))
            line |= {"mode": "lines+markers", "marker": {"size": 6, "color": line["line"]["color"]}}
            panels[attack].append(line | {"customdata": base.rounded(std)})
    span, numbers = fitted(heights), results.played_numbers
    plots = []
    for attack, data in panels.items():
        layout = base.layout("f", "accuracy", y=span)
        layout["xaxis"] |= {"tickvals": numbers}
        about = comparison.attacks if attack == series.WORST else [attack]
        plots.append(Plot(f"{attack}, {results.panel(about, numbers)}", data, layout))
    who = results.panel(comparison.attacks, numbers, str(comparison.num_workers))
    heading = f"Accuracy against f, {who}"
    bands = " Bands are one standard deviation over seeds." if banded else ""
    caption = f"Accuracy at the end, mean over seeds.{bands} {_clicks(palette)}"
    return Group(heading, caption, plots, _legend(policies, palette))


def profiles(results: Results, num_byzantine: int, palette: Palette) -> Group:
    """Performance profiles."""
    runs = counted(results.runs[results.runs["num_byzantine"] == num_byzantine])
    policies = results.played(num_byzantine)
    span = fitted([runs["accuracy"]])
    thresholds = np.linspace(*span, 201)
    banded = palette.banded(policies)
    profile = performance_profile(runs, thresholds, joint=same_seeds(runs), resamples=2000 if banded else 0)
    data: list[dict[str, Any]] = []
    for policy in palette.layers(policies):
        own = profile[profile["policy"] == policy]
        drawn = _Drawn(palette, policy, results.label(policy), shape="hv")
        if policy in banded and own["low"].notna().all():
            data += drawn.band(thresholds, own["low"], own["high"])
        data.append(drawn.line(thresholds, own["value"], "%{y:.0%} of the runs are above %{x:.1%}"))
    attacks = ", ".join(results.comparison.attacks)
    title = f"attacks: {attacks}, {results.panel(results.comparison.attacks, [num_byzantine])}"
    layout = base.layout("accuracy", "share of runs above it", x=span, y=(-0.02, 1.02))
    layout["xaxis"]["tickformat"] = ".0%"
    heading = f"Performance profile, {results.heading(num_byzantine)}"
    bands = " Bands are 95% bootstrap intervals." if banded else ""
    what = "The share of a policy's runs, all attacks and seeds together, above each accuracy."
    caption = f"{what}{bands} {_clicks(palette)}"
    return Group(heading, caption, [Plot(title, data, layout)], _legend(policies, palette), wide=True)


class _Drawn:
    """How a policy is drawn: as a line, which shows its name under the pointer, and perhaps with a band."""

    def __init__(self, palette: Palette, policy: str, name: str, shape: str = "linear") -> None:
        self._line, self._name, self._shape = palette.line(policy), name, shape
        # The button of a legend hides and shows a group.
        self._common = {"type": "scatter", "mode": "lines", "legendgroup": base.text(palette.entry(policy))}

    def line(self, x: Iterable[Any], y: Iterable[Any], shown: str) -> dict[str, Any]:
        """A line, and what is shown of a point of it."""
        line = self._line
        dash = ",".join(f"{line.width * part:.1f}px" for part in line.dashes) or "solid"
        return {
            **self._common,
            "x": base.rounded(x),
            "y": base.rounded(y),
            "line": {"color": line.color, "width": line.width, "dash": dash, "shape": self._shape},
            "name": base.text(self._name),
            "hovertemplate": shown,
        }

    def band(self, x: Iterable[Any], low: pd.Series[Any], high: pd.Series[Any]) -> list[dict[str, Any]]:
        """Two lines that are not visible, with the ground between them."""
        red, green, blue = (int(self._line.color[i : i + 2], 16) for i in (1, 3, 5))
        filled = {"fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},0.13)"}
        hidden = {"x": base.rounded(x), "hoverinfo": "skip", "line": {"width": 0, "shape": self._shape}}
        lower, upper = (self._common | hidden | {"y": base.rounded(y)} for y in (low, high))
        return [lower, upper | filled]


def _legend(policies: Sequence[str], palette: Palette) -> dict[str, Line]:
    return {palette.entry(policy): palette.line(policy) for policy in palette.ordered(policies)}


def _spread(results: Results) -> str:
    """What is shown of the standard deviation over seeds: nothing of a single one."""
    return " ± %{customdata:.1%}" if results.runs["seed"].nunique() > 1 else ""


def _clicks(palette: Palette) -> str:
    """What a reader can do with the lines."""
    return " ".join(filter(None, [palette.note, "A click hides or shows lines, the pointer names them."]))
