"""A run at a glance: the suspicion of every worker in every round, and the verdicts beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from byzgym.envs.rendering import default_style
from byzgym.files import write_whole
from byzgym.forensics.analysis import Analysis, check_analysis
from byzgym.forensics.patterns import stretches
from byzgym.validation import check_array, check_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 160
_ATTACK, _FLAG, _GRID = "#D55E00", "#1b1b1b", "#dddddd"
# Okabe and Ito's colours for groups, without those of attacks and of suspicion.
_GROUPS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#8A6D00", "#6A3D9A")
_ROOM = 7.2  # inches for the rounds


def draw(analysis: Analysis, path: str | Path, title: str = "", byzantine: np.ndarray | None = None) -> Path:
    """Draw an analysis into a file, and return its path.

    A row is a worker and a column a round; the darker, the more suspicious. A black line at the bottom of a
    row marks the rounds in which the worker is accused, and a triangle a change of its role. Letters and
    colours on the left mark groups of workers who copy each other, and the verdicts stand on the right.

    Args:
        analysis: Of a run.
        path: The file; its suffix names the format, such as .png or .svg.
        title: What was played.
        byzantine: Who was Byzantine, bool, shape [T, n], drawn as an orange strip at the top of the row.

    Raises:
        TypeError: If the analysis or the path is none.
        ValueError: If the shape or the format does not fit.
        WriteError: If the file cannot be written.
    """
    from matplotlib import rc_context

    check_analysis(analysis)
    if byzantine is not None:
        byzantine = check_array("byzantine", byzantine, bool)
        if byzantine.shape != analysis.flagged.shape:
            raise ValueError(
                f"byzantine must have shape {list(analysis.flagged.shape)}, got {list(byzantine.shape)}"
            )
    path = check_path("path", path)
    with default_style(), rc_context({"text.parse_math": False}), write_whole(path) as temporary:
        figure = _figure(analysis, title, byzantine)
        figure.savefig(temporary, dpi=_DPI, facecolor="white", bbox_inches="tight", pad_inches=0.12)
    return path


def _figure(analysis: Analysis, title: str, byzantine: np.ndarray | None) -> Figure:
    from matplotlib.figure import Figure

    rounds, workers = analysis.scores.shape
    row = min(0.34, max(0.17, 8.5 / workers))  # inches
    text = min(10.0, 72 * row * 0.62)  # points
    figure = Figure(figsize=(_ROOM + 0.6, row * workers))
    axes = figure.subplots()
    first = int(analysis.trace.round[0])
    extent = (first - 0.5, first + rounds - 0.5, workers - 0.5, -0.5)
    image = axes.imshow(
        analysis.scores.T,
        cmap=_colours(),
        vmin=0,
        vmax=1,
        aspect="auto",
        extent=extent,
        interpolation="nearest",
    )
    for border in range(1, workers):
        axes.axhline(border - 0.5, color="white", linewidth=0.6 if workers > 25 else 1.4)
    for worker in range(workers):
        if byzantine is not None:
            _bars(axes, byzantine[:, worker], first, worker - 0.5, 0.18, _ATTACK)
        _bars(axes, analysis.flagged[:, worker], first, worker + 0.34, 0.16, _FLAG)
    changes = [(at - 0.5, verdict.worker) for verdict in analysis.verdicts for at, _ in verdict.changes]
    if 0 < len(changes) <= 12 * workers:  # more would hide the rest
        size = min(40.0, (72 * row * 0.42) ** 2)
        rounds_of, workers_of = zip(*changes, strict=True)
        style: dict[str, Any] = {"marker": ">", "color": "white", "edgecolor": _FLAG, "linewidth": 0.8}
        axes.scatter(rounds_of, workers_of, s=size, zorder=3, **style)
    _label_workers(axes, analysis, text)
    axes.set_xlabel("round")
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="y", length=0)
    heading = f"{title}\n{analysis.summary}" if title else analysis.summary
    axes.set_title(heading, loc="left", fontsize=11, wrap=False)
    _legend(figure, axes, image, analysis, bool(changes), byzantine is not None, row * workers)
    return figure


def _colours() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("suspicion", ["#f4f4f1", "#f6d9a8", "#d9705a", "#7c1d3f"])


def _bars(axes: Any, mask: np.ndarray, first: int, bottom: float, height: float, color: str) -> None:
    spans = [(first + start - 0.5, end - start) for start, end in stretches(mask)]
    axes.broken_barh(spans, (bottom, height), facecolor=color, linewidth=0)


def _label_workers(axes: Any, analysis: Analysis, text: float) -> None:
    """Numbers and groups on the left, verdicts on the right."""
    names = [f"{group_letter(verdict.group)}  {verdict.worker}".strip() for verdict in analysis.verdicts]
    axes.set_yticks(range(len(names)), names, fontsize=text)
    for tick, verdict in zip(axes.get_yticklabels(), analysis.verdicts, strict=True):
        if verdict.group is not None:
            tick.set_color(_GROUPS[verdict.group % len(_GROUPS)])
            tick.set_fontweight("bold")
    for verdict in analysis.verdicts:
        accused = verdict.pattern != "honest"
        axes.annotate(
            str(verdict),
            xy=(1, verdict.worker),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=text,
            color=_ATTACK if accused else "#666666",
            fontweight="bold" if accused else "normal",
            annotation_clip=False,
        )


def group_letter(group: int | None) -> str:
    """A, B ... Z, A1, B1 ... for the groups 0, 1 ...; empty for none.

    >>> group_letter(1), group_letter(27), group_letter(None)
    ('B', 'B1', '')
    """
    if group is None:
        return ""
    letter, turn = chr(ord("A") + group % 26), group // 26
    return f"{letter}{turn}" if turn else letter


def _legend(
    figure: Figure, axes: Any, image: Any, analysis: Analysis, changes: bool, truth: bool, height: float
) -> None:
    from matplotlib.lines import Line2D

    entries = [Line2D([], [], color=_FLAG, linewidth=3, label="accused")]
    if changes:
        mark: dict[str, Any] = {"marker": ">", "color": "white", "markeredgecolor": _FLAG, "linestyle": ""}
        entries.append(Line2D([], [], label="role changes", **mark))
    if truth:
        entries.append(Line2D([], [], color=_ATTACK, linewidth=3, label="truth: Byzantine"))
    if analysis.groups:
        entries.append(Line2D([], [], marker="s", color=_GROUPS[0], linestyle="", label="A: copy each other"))
    below = -0.62 / height
    axes.legend(
        handles=entries,
        loc="upper left",
        bbox_to_anchor=(-0.01, below),
        ncols=len(entries),
        frameon=False,
        fontsize=9,
        borderaxespad=0,
        columnspacing=1.4,
        handletextpad=0.6,
    )
    bar_axes = axes.inset_axes((1.02, below - 0.12 / height, 0.16, 0.11 / height))
    bar = figure.colorbar(image, cax=bar_axes, orientation="horizontal", ticks=[0, 1])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, pad=2)
    bar.ax.set_title("suspicion", fontsize=9, pad=3)
    if not analysis.threshold.nobody:
        bar.ax.axvline(analysis.threshold.value, color=_FLAG, linewidth=1.5)
