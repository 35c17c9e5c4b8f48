"""Interactive figures, as the JSON that plotly.js draws.

Numbers are rounded and names escaped: plotly reads some tags in texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from byzgym.experiments import series
from byzgym.experiments.estimates import performance_profile, same_seeds
from byzgym.experiments.figures.credits import BYZANTINE, HONEST
from byzgym.experiments.figures.curves import shown_first
from byzgym.experiments.figures.maps import every_policy, label, limits
from byzgym.experiments.figures.style import COLORS, Line, Palette, fitted, shortened
from byzgym.experiments.results import Results
from byzgym.experiments.statistics import counted, summarise
from byzgym.experiments.traces import Trace

_CELLS = 60_000  # of all credit traces in a page
_GREY = "#888888"
_CIVIDIS = (
    "#00224e",
    "#123570",
    "#3b496c",
    "#575d6d",
    "#707173",
    "#8a8678",
    "#a59c74",
    "#c3b369",
    "#e1cc55",
    "#fee838",
)
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "x", "star")


@dataclass(frozen=True)
class Plot:
    """One figure of plotly with its title, and the least width in pixels in which it is readable."""

    title: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    width: int = 0


@dataclass(frozen=True)
class Group:
    """Figures that stand together: a heading, what they show, and the lines or colours that all of them have.

    ``choice`` says what each figure is about where only those about one thing are shown at a time, and
    ``chosen`` is what is shown first.
    """

    heading: str
    caption: str
    plots: list[Plot]
    legend: Mapping[str, Line] = field(default_factory=dict)
    choice: list[str] = field(default_factory=list)
    chosen: str = ""
    wide: bool = False


def curves(results: Results, num_byzantine: int, palette: Palette) -> Group:
    """Accuracy over rounds, a panel an attack."""
    comparison = results.comparison
    first = shown_first(results, num_byzantine)
    attacks = sorted(comparison.attacks, key=lambda attack: attack != first)
    panels, heights = {}, []
    banded = palette.banded(results.played(num_byzantine))
    for attack in attacks:
        data: list[dict[str, Any]] = []
        for policy, curve in series.curves(results, attack, num_byzantine).items():
            mean, std = curve["mean"], curve["std"]
            line = palette.line(policy)
            if policy in banded:
                data += _band(
                    curve.index, (mean - std).clip(0, 1), (mean + std).clip(0, 1), line, results.label(policy)
                )
                heights += [(mean - std).clip(0, 1), (mean + std).clip(0, 1)]
            heights.append(mean)
            shown = "round %{x}: %{y:.1%} ± %{customdata:.1%}"
            data.append(
                _line(curve.index, mean, line, results.label(policy), shown, customdata=_rounded(std))
            )
        panels[attack] = data
    span = fitted(heights or [math.nan])
    plots = [
        Plot(f"{attack}, f = {num_byzantine}", data, _layout("round", "accuracy", y=span))
        for attack, data in panels.items()
    ]
    bands = "; bands are one standard deviation" if banded else ""
    caption = (
        f"Mean over seeds{bands}. As measured, also of runs that diverged. A click hides or shows lines."
    )
    heading = f"Accuracy over rounds, {comparison.heading(num_byzantine)}"
    return Group(heading, caption, plots, _legend(results, results.played(num_byzantine), palette))


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
        for policy in policies:
            own = table[(table["policy"] == policy) & (table["attack"] == attack)]
            mean, std, line = own["mean"], own["std"], palette.line(policy)
            if policy in banded:
                name = results.label(policy)
                panels[attack] += _band(
                    own["num_byzantine"], (mean - std).clip(0, 1), (mean + std).clip(0, 1), line, name
                )
                heights += [(mean - std).clip(0, 1), (mean + std).clip(0, 1)]
            shown = "f = %{x}: %{y:.1%} ± %{customdata:.1%}"
            drawn = _line(
                own["num_byzantine"], mean, line, results.label(policy), shown, customdata=_rounded(std)
            )
            drawn |= {"mode": "lines+markers", "marker": {"size": 6, "color": line.color}}
            panels[attack].append(drawn)
    span, numbers = fitted(heights), results.played_numbers
    listed = ", ".join(map(str, numbers))
    plots = []
    for attack, data in panels.items():
        layout = _layout("f", "accuracy", y=span)
        layout["xaxis"] |= {"tickvals": numbers}
        plots.append(Plot(f"{attack}, f = {listed}", data, layout))
    heading = f"Accuracy against f = {listed} of {comparison.num_workers} workers"
    bands = " Bands are one standard deviation over seeds." if banded else ""
    return Group(
        heading, f"Accuracy at the end, mean over seeds.{bands}", plots, _legend(results, policies, palette)
    )


def final(results: Results, num_byzantine: int) -> Group:
    """A map of policies x attacks."""
    policies = results.played(num_byzantine)
    table = series.final(results, num_byzantine, policies)
    if len(results.comparison.attacks) == 1:
        table = table.drop(columns=series.WORST)
    rows = [results.label(policy) for policy in policies]
    title = f"attacks: {', '.join(results.comparison.attacks)}, f = {num_byzantine}"
    heading = f"Accuracy at the end, {results.comparison.heading(num_byzantine)}"
    plot = _map(table.to_numpy(), rows, list(map(str, table)), limits([table.to_numpy()]), title)
    return Group(heading, f"{results.comparison.measured}, mean over seeds.", [plot], wide=True)


def profiles(results: Results, num_byzantine: int, palette: Palette) -> Group:
    """Performance profiles."""
    runs = counted(results.runs[results.runs["num_byzantine"] == num_byzantine])
    policies = results.played(num_byzantine)
    span = fitted([runs["accuracy"]])
    thresholds = np.linspace(*span, 201)
    banded = palette.banded(policies)
    profile = performance_profile(runs, thresholds, joint=same_seeds(runs), resamples=2000 if banded else 0)
    data: list[dict[str, Any]] = []
    for policy in policies:
        own, line = profile[profile["policy"] == policy], palette.line(policy)
        if policy in banded and own["low"].notna().all():
            data += _band(thresholds, own["low"], own["high"], line, results.label(policy), shape="hv")
        shown = "%{y:.0%} of the runs are above %{x:.1%}"
        drawn = _line(thresholds, own["value"], line, results.label(policy), shown)
        drawn["line"]["shape"] = "hv"
        data.append(drawn)
    attacks = ", ".join(results.comparison.attacks)
    title = f"attacks: {attacks}, f = {num_byzantine}"
    layout = _layout("accuracy", "share of runs above it", x=span, y=(-0.02, 1.02))
    layout["xaxis"]["tickformat"] = ".0%"
    heading = f"Performance profile, {results.comparison.heading(num_byzantine)}"
    bands = " Bands are 95% bootstrap intervals." if banded else ""
    caption = f"The share of a policy's runs, all attacks and seeds together, above each accuracy.{bands}"
    return Group(
        heading, caption, [Plot(title, data, layout)], _legend(results, policies, palette), wide=True
    )


def detection(results: Results, num_byzantine: int) -> Group | None:
    """Credit on Byzantine workers and detection AUC; None where there is nothing to detect."""
    comparison = results.comparison
    summary = summarise(results.runs, num_byzantine, comparison.attacks)
    policies, attacks = series.detected(results, num_byzantine)
    if not policies:
        return None
    lines = {attack: Line(COLORS[i % len(COLORS)], (), 2, i) for i, attack in enumerate(attacks)}
    equal = num_byzantine / comparison.num_workers if comparison.roles == "static" else None
    plots = []
    for column, title, guide, guided in (
        ("byzantine_credit", "credit on Byzantine workers, last tenth of the rounds", equal, "equal credits"),
        ("detection_auc", "detection AUC, last half of the rounds", 0.5, "chance"),
    ):
        rows = [shortened(results.label(policy)) for policy in policies]
        data: list[dict[str, Any]] = []
        for number, attack in enumerate(attacks):
            values = [summary[policy, attack][column] for policy in policies]
            offset = 0.5 * ((number + 0.5) / len(attacks) - 0.5)
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": _rounded(values),
                    "y": [row + offset for row in range(len(rows))],
                    "customdata": list(map(_text, rows)),
                    "marker": {
                        "color": lines[attack].color,
                        "symbol": _SYMBOLS[number % len(_SYMBOLS)],
                        "size": 9,
                    },
                    "name": _text(attack),
                    "hovertemplate": "%{customdata}: %{x:.3f}",
                    "cliponaxis": False,
                }
            )
        seen = [trace["x"] for trace in data] + [[] if guide is None else [guide]]
        span = fitted([np.array(values, float) for values in (*seen, [0.0] if column[0] == "b" else [])])
        layout = _layout("", "", x=span)
        ticks = {"tickvals": list(range(len(rows))), "ticktext": list(map(_text, rows))}
        layout["yaxis"] |= {**ticks, "range": [len(rows) - 0.5, -0.5], "showgrid": False, "tickformat": ""}
        layout["height"] = 70 + 38 * len(rows)
        if guide is not None:
            layout["shapes"] = [
                {
                    **{"type": "line", "x0": guide, "x1": guide, "y0": 0, "y1": 1, "yref": "paper"},
                    "line": {"color": _GREY, "dash": "dot", "width": 1.5},
                }
            ]
            layout["annotations"] = [
                {
                    **{"x": guide, "y": 0, "yref": "paper", "yanchor": "bottom", "showarrow": False},
                    **{"text": guided, "textangle": -90, "xanchor": "left", "font": {"color": "#666"}},
                }
            ]
        plots.append(Plot(f"{title}, f = {num_byzantine}", data, layout))
    heading = f"Detection, {comparison.heading(num_byzantine, attacks)}"
    caption = "Low credit should mean Byzantine: credit 0 and AUC 1 where a policy has found them all."
    return Group(heading, caption, plots, lines)


def credits(results: Results, num_byzantine: int, traces: Sequence[Trace]) -> Group | None:
    """Each worker's credit over rounds, the attacks of one policy at a time; None without traces."""
    if not traces:
        return None
    plots, choice = [], []
    unit = "group" if results.comparison.secure_group_size > 1 else "worker"
    for trace in traces:
        middles = (trace.rounds[:-1] + trace.rounds[1:] - 1) / 2
        rows = [f"{unit} {number}" for number in trace.workers.tolist()]
        data = []
        for name, colors, bad in (("honest", HONEST, False), ("Byzantine", BYZANTINE, True)):
            values = np.where(trace.byzantine == bad, np.clip(trace.credits, 0, 1), np.nan).T
            # The place of a colour is its credit: shades go with the root of credits, as 1/n counts beside 1.
            scale = [[(place := step / 8) ** 2, _mixed(colors, place)] for step in range(9)]
            data.append(
                {
                    "type": "heatmap",
                    "x": _rounded(middles),
                    "y": rows,
                    "z": [_rounded(row, 3) for row in values],
                    **{"zmin": 0, "zmax": 1, "colorscale": scale, "showscale": False, "hoverongaps": False},
                    "hovertemplate": f"{name} %{{y}}, round %{{x}}<br>credit %{{z:.2f}}<extra></extra>",
                }
            )
        title = f"{trace.attack}, f = {num_byzantine}, seed {trace.seed}"
        layout = _layout("round", "")
        layout["yaxis"] |= {"showticklabels": len(rows) <= 12, "autorange": "reversed", "tickformat": ""}
        layout["yaxis"] |= {"showgrid": False, "type": "category"}
        layout["xaxis"]["showgrid"] = False
        layout["height"] = 90 + (17 if len(rows) <= 12 else 8) * len(rows)
        plots.append(Plot(title, data, layout))
        choice.append(results.label(trace.policy))
    heading = f"Credits over rounds, {results.comparison.heading(num_byzantine)}"
    caption = (
        f"A row is a {unit}. Blue: honest in that round; orange: Byzantine. The darker, the more credit: "
        "dark orange is credit that an attacker got. White: it took no part, or there were no credits."
    )
    # First one whose credits say something: not equal for all.
    telling = (trace.policy for trace in traces if np.nanmax(np.nanstd(trace.credits, 1)) > 0.01)
    chosen = results.label(next(telling, traces[0].policy))
    return Group(heading, caption, plots, choice=choice, chosen=chosen)


def bins(results: Results, workers: int = 10) -> int:
    """How many bins of rounds a credit trace may have, so that all of them fit into a page."""
    runs = results.runs[["policy", "num_byzantine", "attack"]].drop_duplicates()
    given = results.runs.dropna(subset=["byzantine_credit"])["policy"].nunique() or 1
    policies = max(1, results.runs["policy"].nunique())
    panels = max(1, len(runs) * given // policies)
    return int(min(120, max(15, _CELLS // (panels * workers))))


def settings(found: Sequence[Results], names: Sequence[str]) -> Group:
    """The settings of a sweep x f, a panel a policy; settings x policies where there is one f."""
    policies = every_policy(found)
    numbers, maps = series.setting_maps(found, policies)
    attacks = ", ".join(dict.fromkeys(attack for one in found for attack in one.comparison.attacks))
    ends = limits(list(maps.values()))
    several = len(numbers) > 1
    columns = [f"f = {f}" for f in numbers] if several else [label(found, policy) for policy in policies]
    listed = ", ".join(map(str, numbers))
    plots = []
    for policy, part in maps.items():
        who = f"{label(found, policy)}: " if several else ""
        plots.append(_map(part, names, columns, ends, f"{who}worst of {attacks}, f = {listed}"))
    heading = f"Worst case in every setting, f = {listed} of {found[0].comparison.num_workers} workers"
    caption = f"{found[0].comparison.measured}, mean over seeds, under the worst of the attacks {attacks}."
    return Group(heading, caption, plots, wide=len(plots) == 1)


def _map(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[str], ends: tuple[float, float], title: str
) -> Plot:
    """A heat map of accuracies, its rows from the top."""
    names = list(map(_text, map(shortened, rows)))
    scale = [[i / (len(_CIVIDIS) - 1), color] for i, color in enumerate(_CIVIDIS)]
    written = [["–" if math.isnan(value) else f"{100 * value:.1f}" for value in row] for row in values]
    data = {
        "type": "heatmap",
        "x": list(range(len(columns))),
        "y": list(range(len(rows))),
        "z": [_rounded(100 * row, 2) for row in values],
        "text": written,
        "customdata": [[f"{_text(row)}<br>{_text(column)}" for column in columns] for row in rows],
        "texttemplate": "%{text}",
        "hovertemplate": "%{customdata}<br>%{z:.2f} %<extra></extra>",
        **{"zmin": 100 * ends[0], "zmax": 100 * ends[1], "colorscale": scale, "xgap": 2, "ygap": 2},
        "showscale": False,
    }
    layout = _layout("", "")
    longest = max(len(shortened(name)) for name in columns)
    slanted = longest > 12
    plain: dict[str, Any] = {"showgrid": False, "tickformat": "", "ticks": ""}
    layout["xaxis"] |= {**plain, "tickvals": list(range(len(columns)))}
    layout["xaxis"] |= {
        "ticktext": [_text(shortened(name)) for name in columns],
        "tickangle": -30 if slanted else 0,
    }
    layout["yaxis"] |= {**plain, "tickvals": list(range(len(rows))), "ticktext": names}
    layout["yaxis"] |= {"range": [len(rows) - 0.5, -0.5]}
    layout["height"] = 66 + 30 * len(rows) + (5 * longest if slanted else 0)
    left = 7 * max(len(shortened(name)) for name in rows)
    return Plot(title, [data], layout, left + len(columns) * (56 if slanted else max(48, 7 * longest)))


def _layout(
    x_title: str, y_title: str, x: tuple[float, float] | None = None, y: tuple[float, float] | None = None
) -> dict[str, Any]:
    axis: dict[str, Any] = {"automargin": True, "zeroline": False, "gridcolor": "#e4e4e4"}
    layout: dict[str, Any] = {
        "margin": {"l": 8, "r": 14, "t": 30, "b": 8},  # room for the buttons above
        "height": 276,
        "showlegend": False,
        "hovermode": "closest",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#1b1b1b"},
        "xaxis": {**axis, "title": {"text": x_title}},
        "yaxis": {**axis, "title": {"text": y_title}, "tickformat": ".0%"},
    }
    for name, span in (("xaxis", x), ("yaxis", y)):
        if span is not None:
            layout[name]["range"] = _rounded(span)
    return layout


def _line(
    x: Iterable[Any], y: Iterable[Any], line: Line, name: str, shown: str, **others: Any
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": _rounded(x),
        "y": _rounded(y),
        "line": {"color": line.color, "width": line.width, "dash": _dash(line)},
        "name": _text(name),
        "legendgroup": _text(name),
        "hovertemplate": shown,
        **others,
    }


def _band(
    x: Iterable[Any], low: pd.Series, high: pd.Series, line: Line, name: str, shape: str = "linear"
) -> list[dict[str, Any]]:
    """Two lines that are not visible, with the ground between them."""
    x = _rounded(x)
    common = {"type": "scatter", "mode": "lines", "x": x, "hoverinfo": "skip", "legendgroup": _text(name)}
    red, green, blue = (int(line.color[i : i + 2], 16) for i in (1, 3, 5))
    filled = {"fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},0.13)"}
    style = {"line": {"width": 0, "shape": shape}}
    return [
        {**common, **style, "y": _rounded(low)},
        {**common, **style, "y": _rounded(high), **filled},
    ]


def _legend(results: Results, policies: Sequence[str], palette: Palette) -> dict[str, Line]:
    return {results.label(policy): palette.line(policy) for policy in policies}


def _dash(line: Line) -> str:
    return ",".join(f"{line.width * part:.1f}px" for part in line.dashes) or "solid"


def _mixed(colors: Sequence[str], place: float) -> str:
    """The colour at a place from 0 to 1 along colours at equal distances."""
    number = min(int(place * (len(colors) - 1)), len(colors) - 2)
    share = place * (len(colors) - 1) - number
    first, second = (
        np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) for color in colors[number : number + 2]
    )
    return "rgb({},{},{})".format(*((1 - share) * first + share * second).round().astype(int))


def _rounded(values: Iterable[Any], digits: int = 4) -> list[Any]:
    """Numbers as JSON has them: whole ones as integers, None for what is not finite."""
    found = []
    for value in values:
        number = float(value)
        rounded = round(number, digits) if math.isfinite(number) else None
        found.append(int(rounded) if rounded is not None and rounded == int(rounded) else rounded)
    return found


def _text(name: str) -> str:
    """A name as plotly shows it: unchanged."""
    return escape(name, quote=False)
