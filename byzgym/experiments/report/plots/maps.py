"""Interactive heat maps of accuracies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from byzgym.experiments import series
from byzgym.experiments.figures.maps import WIDE, attacks, every_policy, label, limits, measured, panel, who
from byzgym.experiments.figures.style import folded, shortened_apart
from byzgym.experiments.report.plots import base
from byzgym.experiments.report.plots.base import Group, Plot
from byzgym.experiments.results import Results

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


def final_accuracy(results: Results, num_byzantine: int) -> Group:
    """A map of policies x attacks."""
    policies = results.played(num_byzantine)
    table = series.final(results, num_byzantine, policies)
    if len(results.comparison.attacks) == 1:
        table = table.drop(columns=series.WORST)
    rows = shortened_apart([results.label(policy) for policy in policies])
    attacks = results.comparison.attacks
    title = f"attacks: {', '.join(attacks)}, {results.panel(attacks, [num_byzantine])}"
    heading = f"Accuracy at the end, {results.heading(num_byzantine)}"
    plot = _map(table.to_numpy(), rows, list(map(str, table)), limits([table.to_numpy()]), title)
    return Group(heading, f"{results.comparison.measured}, mean over seeds.", [plot], wide=True)


def settings(found: Sequence[Results], names: Sequence[str]) -> Group:
    """The settings of a sweep x f, a panel a policy; settings x policies where there is one f."""
    policies = every_policy(found)
    numbers, maps = series.setting_maps(found, policies)
    ends = limits(list(maps.values()))
    several = len(numbers) > 1
    columns = [f"f = {f}" for f in numbers] if several else [label(found, policy) for policy in policies]
    rows = [folded(name, WIDE) for name in names]
    listed, plots = ", ".join(attacks(found)), []
    for policy, part in maps.items():
        about = f"{label(found, policy)}: " if several else ""
        title = f"{about}worst of {listed}, {panel(found, numbers)}"
        plots.append(_map(part, rows, columns, ends, title))
    heading = f"Worst case in every setting, {who(found, numbers)}"
    caption = f"{measured(found)}, mean over seeds, under the worst of the attacks {listed}."
    return Group(heading, caption, plots, wide=len(plots) == 1)


def _map(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[str], ends: tuple[float, float], title: str
) -> Plot:
    """A heat map of accuracies, its rows from the top."""
    across = shortened_apart(columns)
    scale = [[i / (len(_CIVIDIS) - 1), color] for i, color in enumerate(_CIVIDIS)]
    written = [["–" if math.isnan(value) else f"{100 * value:.1f}" for value in row] for row in values]
    data = {
        "type": "heatmap",
        "x": list(range(len(columns))),
        "y": list(range(len(rows))),
        "z": [base.rounded(100 * row, 2) for row in values],
        "text": written,
        "customdata": [
            [f"{base.text(' '.join(row.split()))}<br>{base.text(column)}" for column in columns]
            for row in rows
        ],
        "texttemplate": "%{text}",
        "hovertemplate": "%{customdata}<br>%{z:.2f} %<extra></extra>",
        **{"zmin": 100 * ends[0], "zmax": 100 * ends[1], "colorscale": scale, "xgap": 2, "ygap": 2},
        "showscale": False,
    }
    layout = base.layout("", "")
    longest = max(map(len, across))
    slanted = longest > 12
    plain: dict[str, Any] = {"showgrid": False, "tickformat": "", "ticks": ""}
    layout["xaxis"] |= {**plain, "tickvals": list(range(len(columns)))}
    layout["xaxis"] |= {
        "ticktext": list(map(base.text, across)),
        "tickangle": -30 if slanted else 0,
    }
    layout["yaxis"] |= {
        **plain,
        "tickvals": list(range(len(rows))),
        "ticktext": [base.text(row).replace("\n", "<br>") for row in rows],
    }
    layout["yaxis"] |= {"range": [len(rows) - 0.5, -0.5]}
    lines = max(row.count("\n") for row in rows) + 1
    layout["height"] = 66 + max(30, 15 * lines) * len(rows) + (5 * longest if slanted else 0)
    left = 7 * max(len(line) for row in rows for line in row.split("\n"))
    return Plot(title, [data], layout, left + len(columns) * (56 if slanted else max(48, 7 * longest)))
