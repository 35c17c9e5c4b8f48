"""Interactive figures of who got credit: of each worker over rounds, and of Byzantine workers at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from byzgym.experiments import series
from byzgym.experiments.figures.credits import BYZANTINE, HONEST
from byzgym.experiments.figures.style import COLORS, Line, Palette, fitted
from byzgym.experiments.report.plots import base
from byzgym.experiments.report.plots.base import Group, Plot
from byzgym.experiments.results import Results
from byzgym.experiments.statistics import summarise
from byzgym.experiments.traces import Trace

_CELLS = 60_000  # of all credit traces in a page
_GREY = "#888888"
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "x", "star")


def detection(results: Results, num_byzantine: int, palette: Palette) -> Group | None:
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
        rows = [palette.name(policy) for policy in policies]
        data: list[dict[str, Any]] = []
        for number, attack in enumerate(attacks):
            values = [summary[policy, attack][column] for policy in policies]
            offset = 0.5 * ((number + 0.5) / len(attacks) - 0.5)
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": base.rounded(values),
                    "y": [row + offset for row in range(len(rows))],
                    "customdata": list(map(base.text, rows)),
                    "marker": {
                        "color": lines[attack].color,
                        "symbol": _SYMBOLS[number % len(_SYMBOLS)],
                        "size": 9,
                    },
                    "name": base.text(attack),
                    "hovertemplate": "%{customdata}: %{x:.3f}",
                    "cliponaxis": False,
                }
            )
        seen = [trace["x"] for trace in data] + [[] if guide is None else [guide]]
        span = fitted([np.array(values, float) for values in (*seen, [0.0] if column[0] == "b" else [])])
        layout = base.layout("", "", x=span)
        ticks = {"tickvals": list(range(len(rows))), "ticktext": list(map(base.text, rows))}
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
        plots.append(Plot(f"{title}, {results.panel(attacks, [num_byzantine])}", data, layout))
    heading = f"Detection, {results.heading(num_byzantine, attacks)}"
    caption = "Low credit should mean Byzantine: credit 0 and AUC 1 where a policy has found them all."
    return Group(heading, caption, plots, lines)


def traces(results: Results, num_byzantine: int, traces: Sequence[Trace]) -> Group | None:
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
                    "x": base.rounded(middles),
                    "y": rows,
                    "z": [base.rounded(row, 3) for row in values],
                    **{"zmin": 0, "zmax": 1, "colorscale": scale, "showscale": False, "hoverongaps": False},
                    "hovertemplate": f"{name} %{{y}}, round %{{x}}<br>credit %{{z:.2f}}<extra></extra>",
                }
            )
        title = f"{trace.attack}, {results.panel([trace.attack], [num_byzantine])}, seed {trace.seed}"
        layout = base.layout("round", "")
        layout["yaxis"] |= {"showticklabels": len(rows) <= 12, "autorange": "reversed", "tickformat": ""}
        layout["yaxis"] |= {"showgrid": False, "type": "category"}
        layout["xaxis"]["showgrid"] = False
        layout["height"] = 90 + (17 if len(rows) <= 12 else 8) * len(rows)
        plots.append(Plot(title, data, layout))
        choice.append(results.label(trace.policy))
    heading = f"Credits over rounds, {results.heading(num_byzantine)}"
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


def _mixed(colors: Sequence[str], place: float) -> str:
    """The colour at a place from 0 to 1 along colours at equal distances."""
    number = min(int(place * (len(colors) - 1)), len(colors) - 2)
    share = place * (len(colors) - 1) - number
    first, second = (
        np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) for color in colors[number : number + 2]
    )
    return "rgb({},{},{})".format(*((1 - share) * first + share * second).round().astype(int))
