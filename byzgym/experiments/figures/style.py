"""How figures look: a colour and dashes for each policy, and axes that fit the data."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from byzgym.experiments import series
from byzgym.experiments.results import Results
from byzgym.validation import unknown

MOST_BANDS = 6
"""Bands of more lines than this hide each other."""
MOST_COLORS = 12
"""Nobody tells the colours and dashes of more policies than this apart, references aside."""
BEST = 6
"""So many of them have colours then, unless the reader chooses others."""
SHORT = 32
"""Letters of a name beside a figure, if so many tell it from the others."""
GRID: dict[str, Any] = {"color": "#dddddd", "linewidth": 0.8}

# Okabe and Ito's colours, which colour-blind people can tell apart, without black, the references' colour,
# and with yellow darkened for a white ground.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8A6D00", "#6A3D9A")
_AGENT_COLOR = "#D55E00"
_AGENT_DASHES: dict[str, tuple[float, ...]] = {"set": (), "gaa": (4, 1.2)}
_REFERENCE_COLOR = "#222222"
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.5), (1, 1), (4, 1, 1, 1))
_GREY = "#bdbdbd"
_GREY_TEXT = "#707070"
_GAP = 0.06  # between two names at the ends of lines, as a part of the height of the axes, at most
_MARGIN = 0.01  # between the names and the ends of the axes


@dataclass(frozen=True)
class Line:
    """A policy's line: its colour, its dashes in widths of the line (none: solid), its width in points."""

    color: str
    dashes: tuple[float, ...]
    width: float
    order: int  # a higher one is drawn on top

    @property
    def matplotlib(self) -> dict[str, Any]:
        """As keyword arguments of `Axes.plot`."""
        style: Any = (0, self.dashes) if self.dashes else "-"
        return {"color": self.color, "linestyle": style, "linewidth": self.width, "zorder": self.order}


class Palette:
    """The lines of the policies and their names in legends, the same in every figure of a report.

    Of more than `MOST_COLORS` policies only the `BEST` have colours, and references. Legends give a number
    for all others, which are grey.

    Args:
        results: Whose policies.
        highlight: These policies keep their colours, and all others are grey; none for colours everywhere.
    """

    def __init__(self, results: Results, highlight: Sequence[str] = ()) -> None:
        policies, references, many = results.comparison.policies, results.references, has_many(results)
        # A setting without any of the chosen policies is shown in colours.
        self.highlighted = [policy for policy in policies if policy in highlight]
        shown = [*series.best(results, BEST), *references] if many else policies
        self._coloured = self.highlighted or [policy for policy in policies if policy in shown]
        self._several_seeds = results.runs["seed"].nunique() > 1
        names = shortened_apart([results.label(policy) for policy in policies])
        self._names = dict(zip(policies, names, strict=True))
        self._others = ""
        if many:
            count = len({*results.runs["policy"]}.difference(self._coloured))
            best = "" if self.highlighted else f" (best {BEST} by worst case in colour)"
            self._others = f"{count} other{'s' * (count > 1)}{best}"
        self._lines = _lines(policies, references, self._coloured if many else policies)
        for policy, line in self._lines.items():
            if policy not in self._coloured:
                self._lines[policy] = _dimmed(line, 0.8 if many else 1.4)
            elif self.highlighted:
                self._lines[policy] = replace(line, width=2.4, order=6)

    def line(self, policy: str) -> Line:
        """A policy's line."""
        return self._lines[policy]

    def name(self, policy: str) -> str:
        """A policy's name beside figures, in its middle shortened if it is long."""
        return self._names[policy]

    def entry(self, policy: str) -> str:
        """What legends say of a policy's line: its name, or how many others are as grey as it."""
        return self.name(policy) if self.is_named(policy) else self._others

    def is_named(self, policy: str) -> bool:
        """Whether legends name the policy."""
        return not self._others or policy in self._coloured

    def ordered(self, policies: Iterable[str]) -> list[str]:
        """The policies as legends have them: those without names last."""
        return sorted(policies, key=lambda policy: not self.is_named(policy))

    def layers(self, policies: Iterable[str]) -> list[str]:
        """The policies in the order of drawing, where later ones hide earlier ones."""
        return sorted(policies, key=lambda policy: self.line(policy).order)

    def banded(self, policies: Sequence[str]) -> list[str]:
        """Those of the policies in one figure that get bands: all that have colours.

        None where those are too many, or where there is one seed.
        """
        coloured = [policy for policy in policies if policy in self._coloured]
        return coloured if len(coloured) <= MOST_BANDS and self._several_seeds else []

    @property
    def note(self) -> str:
        """Who has a colour, where that is not everybody; "" elsewhere."""
        if not self._others or self.highlighted:
            return ""
        return f"In colour are the {BEST} policies of the best worst case (mean over f), and references."


def has_many(results: Results) -> bool:
    """Whether more policies have runs than colours can tell apart."""
    return len({*results.runs["policy"]}.difference(results.references)) > MOST_COLORS


def check_highlight(highlight: Sequence[str], policies: Iterable[str]) -> None:
    """Raise a ValueError if one of the names is not that of a policy."""
    known = list(policies)
    for name in highlight:
        if name not in known:
            raise unknown("policy to highlight", name, known)


def fitted(values: Iterable[Any]) -> tuple[float, float]:
    """Limits of an axis that holds all finite values, each a number or an array, and is little longer."""
    everything = np.concatenate([np.ravel(np.asarray(value, float)) for value in values])
    finite = everything[np.isfinite(everything)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    margin = max(0.01, 0.04 * (high - low))
    return low - margin, high + margin


def dress(axes: Any, grid: str = "y") -> None:
    """Give axes a light grid behind the data, and no frame."""
    axes.grid(axis=grid, **GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def folded(title: str, width: int) -> str:
    """A title in lines of at most this many letters, where its words allow that."""
    kept = title.replace(" = ", "\xa0=\xa0")
    lines = textwrap.fill(kept, width, break_long_words=False, break_on_hyphens=False)
    return lines.replace("\xa0", " ")


def shortened(name: str, most: int = SHORT) -> str:
    """A name with its middle left out if it is longer than this, such as that of a model in a deep folder.

    Example:
        >>> shortened("model:/a/folder/in/a/folder/model.zip", 25)
        'model:/a/fol…er/model.zip'
    """
    if len(name) <= most:
        return name
    end = (most - 1) // 2
    return f"{name[: most - 1 - end]}…{name[-end:]}"


def shortened_apart(names: Sequence[str], most: int = SHORT) -> list[str]:
    """Names that are shortened only as much as leaves different ones different.

    Example:
        >>> shortened_apart(["model:/runs/1/of/a/long/name.zip", "model:/runs/2/of/a/long/name.zip"], 20)
        ['model:/runs/1…ong/name.zip', 'model:/runs/2…ong/name.zip']
    """
    longest = max(map(len, names), default=most)
    while most < longest and len({shortened(name, most) for name in names}) < len(set(names)):
        most += 1
    return [shortened(name, most) for name in names]


def legend_below(figure: Any, columns: int) -> None:
    """A legend below all axes of a figure, with each label once."""
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "frameon": False}
    lines = _labelled(figure.axes)
    figure.legend(list(lines.values()), list(lines), ncols=max(1, min(len(lines), columns)), **place)


def legend_beside(axes: Any) -> None:
    """A legend to the right of axes, with each label once."""
    lines = _labelled([axes])
    place = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5), "frameon": False}
    axes.legend(list(lines.values()), list(lines), **place)


def _labelled(panels: Iterable[Any]) -> dict[str, Any]:
    return {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }


def label_ends(axes: Any, unnamed: Collection[str] = ()) -> None:
    """Write each line's name at its end; names that would overlap are moved apart.

    Where there are too many for the height of the axes, they stand closer and are smaller. A legend has the
    labels in ``unnamed``, which many lines share.
    """
    bottom, top = axes.get_ylim()
    named = [line for line in axes.lines if line.get_label() not in unnamed]
    ends = {line: (line.get_ydata()[-1] - bottom) / (top - bottom) for line in named}
    lines = sorted(ends, key=lambda line: (ends[line], line.get_label()))
    gap = min(_GAP, (1 - 2 * _MARGIN) / max(1, len(lines) - 1))
    heights = [max(ends[line], _MARGIN) for line in lines]
    for number in range(1, len(heights)):  # up, away from the name below
        heights[number] = max(heights[number], heights[number - 1] + gap)
    highest = 1 - _MARGIN
    for number in reversed(range(len(heights))):  # and back down into the axes
        heights[number] = min(heights[number], highest)
        highest = heights[number] - gap
    for line, height in zip(lines, heights, strict=True):
        color = _GREY_TEXT if line.get_color() == _GREY else line.get_color()
        axes.annotate(
            line.get_label(),
            xy=(line.get_xdata()[-1], line.get_ydata()[-1]),
            xytext=(1.04, height),
            textcoords="axes fraction",
            color=color,
            va="center",
            fontsize=10 * gap / _GAP,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.8, "alpha": 0.7, "relpos": (0, 0.5)},
        )
    shared = {label: line for label, line in _labelled([axes]).items() if label in unnamed}
    if shared:
        place = {"loc": "upper right", "bbox_to_anchor": (1.0, -0.1), "frameon": False}
        axes.legend(list(shared.values()), list(shared), labelcolor=_GREY_TEXT, **place)


def _lines(policies: Sequence[str], references: Sequence[str], coloured: Sequence[str]) -> dict[str, Line]:
    """A line for each policy; those that are not to be coloured are all alike."""
    plain = [policy for policy in coloured if policy not in {*_AGENT_DASHES, *references}]
    lines = dict.fromkeys(policies, Line(_GREY, (), 1.8, 3))
    lines |= {policy: _plain_line(number) for number, policy in enumerate(plain)}
    lines |= {name: Line(_AGENT_COLOR, dashes, 2.4, 5) for name, dashes in _AGENT_DASHES.items()}
    lines |= {name: Line(_REFERENCE_COLOR, (3.7, 1.6), 1.6, 4) for name in references}
    return {policy: lines[policy] for policy in policies}


def _plain_line(number: int) -> Line:
    dashes = _DASHES[(number // len(COLORS)) % len(_DASHES)]
    return Line(COLORS[number % len(COLORS)], dashes, 1.8, 3)


def _dimmed(line: Line, width: float) -> Line:
    return replace(line, color=_GREY, width=min(line.width, width), order=2)
