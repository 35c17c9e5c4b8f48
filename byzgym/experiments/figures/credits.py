"""Who got credit: of each worker over rounds, and of Byzantine workers at the end."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure

from byzgym.experiments import series
from byzgym.experiments.figures.style import COLORS, Palette, dress, fitted, folded
from byzgym.experiments.results import Results
from byzgym.experiments.statistics import summarise
from byzgym.experiments.traces import Trace

HONEST = ("#e3eef6", "#56a0cf", "#003a5d")
"""From no credit to all of it; colour-blind people can tell these from the next."""
BYZANTINE = ("#fdeadd", "#ee8844", "#7d2c00")
_MARKERS = "osD^vPX*<>"


def traces(results: Results, num_byzantine: int, found: Sequence[Trace], palette: Palette) -> Figure | None:
    """Each worker's credit over the rounds of one run, a panel for each policy and attack.

    The colour says whether the worker is Byzantine in that round, its darkness how much credit it has.
    Of many policies only those are shown that legends name. None without traces.
    """
    found = [trace for trace in found if palette.is_named(trace.policy)] or found
    if not found:
        return None
    policies = list(dict.fromkeys(trace.policy for trace in found))
    attacks = list(dict.fromkeys(trace.attack for trace in found))
    height = min(2.0, 0.35 + 0.075 * max(len(trace.workers) for trace in found))
    figure = Figure(figsize=(1.6 + 2.6 * len(attacks), 1.6 + height * len(policies)), layout="constrained")
    grid = figure.subplots(1, len(attacks), sharex=True, sharey=True, squeeze=False)[0]
    for trace in found:
        _trace(grid[attacks.index(trace.attack)], trace, policies.index(trace.policy))
    for axes, attack in zip(grid, attacks, strict=True):
        title = f"{attack}, {results.panel([attack], [num_byzantine])}"
        axes.set_title(folded(title, 26), loc="left", fontsize=10)
        axes.set_xlabel("round")
        axes.locator_params("x", integer=True)
        axes.tick_params(labelsize=8)
        axes.tick_params(axis="y", length=0, labelsize=10)
        axes.spines[:].set_visible(False)
    names = ["\n".join(textwrap.wrap(palette.name(policy), 18)) for policy in policies]
    grid[0].set_yticks([row + 0.5 for row in range(len(policies))], names)
    first, last = min(trace.rounds[0] for trace in found), max(trace.rounds[-1] for trace in found)
    grid[0].set(xlim=(first, last), ylim=(len(policies), 0))
    heading = results.heading(num_byzantine, attacks)
    title = f"{results.comparison.task}: credit of each worker (a row), seed {found[0].seed}, {heading}"
    figure.suptitle(folded(title, 30 + 24 * len(attacks)), x=0.01, ha="left", fontsize=11)
    for name, colors in (("Byzantine", BYZANTINE), ("honest", HONEST)):
        if not any((trace.byzantine == (name == "Byzantine")).any() for trace in found):
            continue  # as under a fault in transmission
        image = ScalarMappable(_norm(), _colors(colors))
        part = 0.25 / figure.get_figheight()
        shape: Any = {"location": "bottom", "fraction": part, "aspect": 40, "pad": 0.02}
        bar = figure.colorbar(image, ax=list(grid), ticks=[0, 0.1, 0.5, 1], **shape)
        bar.set_label(f"credit of {name} workers", fontsize=9)
        bar.ax.tick_params(labelsize=8, length=0)
        bar.outline.set_visible(False)
    return figure


def detection(results: Results, num_byzantine: int, palette: Palette) -> Figure | None:
    """Credit on Byzantine workers at the end of the runs, and the AUC of low credit as a detector of them.

    None where no policy gives credits, or no worker is Byzantine.
    """
    comparison = results.comparison
    summary = summarise(results.runs, num_byzantine, comparison.attacks)
    policies, attacks = series.detected(results, num_byzantine)
    if not policies:
        return None
    figure = Figure(figsize=(9, 1.3 + 0.5 * len(policies)))
    left, right = figure.subplots(1, 2, sharey=True)
    share = num_byzantine / comparison.num_workers
    given = [summary[policy, attack] for policy in policies for attack in attacks]
    credits = [entry["byzantine_credit"] for entry in given]
    if comparison.roles == "static":  # elsewhere it depends on the round
        _guide(left, share, "equal credits")
        credits.append(share)
    _guide(right, 0.5, "chance")
    aucs = [entry["detection_auc"] for entry in given]
    for axes, column in ((left, "byzantine_credit"), (right, "detection_auc")):
        for number, attack in enumerate(attacks):
            offset = 0.5 * ((number + 0.5) / len(attacks) - 0.5)
            axes.scatter(
                [summary[policy, attack][column] for policy in policies],
                [row + offset for row in range(len(policies))],
                color=[COLORS[number % len(COLORS)]],
                marker=_MARKERS[number % len(_MARKERS)],
                s=42,
                label=attack if axes is left else None,
                zorder=3,
                clip_on=False,
            )
        dress(axes, "x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    left.set_yticks(range(len(policies)), [palette.name(policy) for policy in policies])
    left.set(xlim=fitted([credits, 0]), ylim=(len(policies) - 0.5, -0.5))
    left.set_xlabel("credit on Byzantine workers,\nlast tenth of the rounds")
    right.set(xlim=fitted([aucs, 0.5]), xlabel="detection AUC,\nlast half of the rounds")
    figure.tight_layout()
    title = f"{comparison.task}, {results.heading(num_byzantine, attacks)}, attacks {', '.join(attacks)}"
    figure.suptitle(folded(title, 90), x=0.01, y=1.0, ha="left", va="bottom", fontsize=11)
    figure.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def shades(trace: Trace) -> np.ndarray:
    """The colours of a trace's credits, [n, bins, 4]; white where a worker has not taken part."""
    credits = np.clip(trace.credits.T, 0, 1)
    scaled = np.nan_to_num(_norm()(credits).filled(0))
    colors = np.where(trace.byzantine.T[..., None], _colors(BYZANTINE)(scaled), _colors(HONEST)(scaled))
    colors[np.isnan(credits)] = 1.0
    return colors


def _trace(axes: Any, trace: Trace, place: int) -> None:
    """Draw a trace between ``place`` and the next whole number; axes of its own would take longer."""
    extent = (trace.rounds[0], trace.rounds[-1], place + 0.95, place + 0.05)
    axes.imshow(shades(trace), aspect="auto", interpolation="nearest", extent=extent)


def _guide(axes: Any, place: float, label: str) -> None:
    dashes = {"linestyle": (0, (2, 2)) if label == "chance" else (0, (5, 2)), "linewidth": 1.2}
    axes.axvline(place, color="#888888", label=label, **dashes)


def _norm() -> PowerNorm:
    """The root of credits: 1/n is visible beside 1."""
    return PowerNorm(0.5, vmin=0, vmax=1)


def _colors(colors: Sequence[str]) -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list("credits", colors)
