"""What all interactive figures are made of: the JSON that plotly.js draws.

Numbers are rounded and names escaped: plotly reads some tags in texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from byzgym.experiments.figures.style import Line


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


def layout(
    x_title: str, y_title: str, x: tuple[float, float] | None = None, y: tuple[float, float] | None = None
) -> dict[str, Any]:
    """The layout of plotly with titles of the axes and, where given, their ends."""
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
            layout[name]["range"] = rounded(span)
    return layout


def rounded(values: Iterable[Any], digits: int = 4) -> list[Any]:
    """Numbers as JSON has them: whole ones as integers, None for what is not finite."""
    found = []
    for value in values:
        number = float(value)
        rounded = round(number, digits) if math.isfinite(number) else None
        found.append(int(rounded) if rounded is not None and rounded == int(rounded) else rounded)
    return found


def text(name: str) -> str:
    """A name as plotly shows it: unchanged."""
    return escape(name, quote=False)
