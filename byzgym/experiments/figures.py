"""The figures of a comparison, drawn without pyplot, so that no global state is touched."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from byzgym.envs.rendering import default_style
from byzgym.experiments.estimates import performance_profile, same_seeds
from byzgym.experiments.results import Results
from byzgym.experiments.statistics import counted, summarise
from byzgym.files import write_whole

# Okabe and Ito's colours, which colour-blind people can tell apart, without black, the references' colour,
# and with yellow darkened for a white ground.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8A6D00", "#6A3D9A")
_AGENT_COLOR = "#D55E00"
_AGENT_DASHES: dict[str, Any] = {"set": "-", "gaa": (0, (4, 1.2))}
_REFERENCE_COLOR = "#222222"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
_GRID: dict[str, Any] = {"color": "#dddddd", "linewidth": 0.8}
_DPI = 160
_MOST_BANDS = 6  # bands of more lines than this hide each other
_GAP = 0.06  # between two names at the ends of lines, as a part of the height of the axes, at most
_MARGIN = 0.01  # between the names and the ends of the axes


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw all figures; returns the files in the order in which a report shows them."""
    played = results.played_numbers
    with default_style(), rc_context({"text.parse_math": False}):  # a name with dollar signs is no formula
        figures = {"overview.png": overview(results, max(played))}
        for f in played:
            figures[f"accuracy_f{f}.png"] = accuracy_over_rounds(results, f)
            figures[f"final_f{f}.png"] = final_accuracy(results, f)
            figures[f"profile_f{f}.png"] = profiles(results, f)
            credits = byzantine_credits(results, f)
            if credits is not None:
                figures[f"credits_f{f}.png"] = credits
        for name, figure in figures.items():
            with write_whole(folder / name) as path:
                figure.savefig(path, dpi=_DPI, facecolor="white", bbox_inches="tight", pad_inches=0.12)
    return [folder / name for name in figures]


def overview(results: Results, num_byzantine: int) -> Figure:
    """Accuracy over rounds under one attack (sign_flip where it was played), with every line labelled."""
    comparison = results.comparison
    runs = results.runs[results.runs["num_byzantine"] == num_byzantine]
    played = [attack for attack in comparison.attacks if (runs["attack"] == attack).any()]
    attack = "sign_flip" if "sign_flip" in played else played[0]
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    _curves(axes, results, attack, num_byzantine)
    axes.set(xlabel="round", ylabel="test accuracy")
    title = f"{comparison.task}, attack {attack}, {comparison.heading(num_byzantine, [attack])}"
    axes.set_title(title, loc="left", fontsize=12)
    _label_ends(axes)
    return figure


def accuracy_over_rounds(results: Results, num_byzantine: int) -> Figure:
    """One panel an attack: mean accuracy over seeds, and a band of one standard deviation."""
    attacks = results.comparison.attacks
    columns = 2 if len(attacks) == 4 else min(len(attacks), 4 if len(attacks) % 3 else 3)
    rows = math.ceil(len(attacks) / columns)
    figure = Figure(figsize=(0.6 + 4.2 * columns, 0.8 + 2.5 * rows))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(attacks) :]:
        axes.set_visible(False)
    for number, (axes, attack) in enumerate(zip(grid.flat, attacks, strict=False)):
        _curves(axes, results, attack, num_byzantine)
        axes.set_title(attack, loc="left", fontsize=11)
        if number % columns == 0:
            axes.set_ylabel("test accuracy")
        if number + columns >= len(attacks):
            axes.set_xlabel("round")
            axes.tick_params(labelbottom=True)
    figure.tight_layout()
    lines = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    handles, labels = list(lines.values()), list(lines)
    ncols = min(len(labels), 4 if columns < 3 else 7)
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=ncols, frameon=False)
    return figure


def final_accuracy(results: Results, num_byzantine: int) -> Figure:
    """A map of policies x attacks: accuracy at the end, mean over seeds."""
    attacks, policies = results.comparison.attacks, results.played(num_byzantine)
    summary = summarise(results.runs, num_byzantine, attacks)
    values = np.array([[summary[policy, attack]["mean"] for attack in attacks] for policy in policies])
    figure = Figure(figsize=(2.4 + 1.25 * len(attacks), 1.0 + 0.42 * len(policies)))
    axes = figure.subplots()
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        color = "white" if value < 0.6 else "black"  # also where there is none
        shown = "–" if math.isnan(value) else f"{100 * value:.1f}"
        axes.text(column, row, shown, ha="center", va="center", color=color, fontsize=10)
    axes.set_xticks(range(len(attacks)), attacks, rotation=0 if max(map(len, attacks)) < 12 else 20)
    axes.set_yticks(range(len(policies)), [results.label(policy) for policy in policies])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    references = sum(policy in results.references for policy in policies)
    if 0 < references < len(policies):
        axes.axhline(len(policies) - references - 0.5, color="white", linewidth=4)
    heading = results.comparison.heading(num_byzantine)
    axes.set_title(f"test accuracy in %, {heading}", loc="left", fontsize=11)
    bar = figure.colorbar(image, ax=axes, ticks=[0, 0.5, 1], pad=0.03)
    bar.ax.set_yticklabels(["0", "50", "100"])
    bar.outline.set_visible(False)
    return figure


def profiles(results: Results, num_byzantine: int) -> Figure:
    """Performance profiles: the share of each policy's runs, under all attacks, above an accuracy."""
    runs = counted(results.runs[results.runs["num_byzantine"] == num_byzantine])
    policies, scores = results.played(num_byzantine), runs["accuracy"]
    margin = max(0.01, 0.04 * (scores.max() - scores.min()))
    low, high = scores.min() - margin, scores.max() + margin
    thresholds = np.linspace(low, high, 401)
    bands = len(policies) <= _MOST_BANDS
    profile = performance_profile(runs, thresholds, joint=same_seeds(runs), resamples=2000 if bands else 0)
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    for policy in policies:
        own, style = profile[profile["policy"] == policy], _style(results, policy)
        if bands and own["low"].notna().all():
            bounds, color = (own["low"], own["high"]), style["color"]
            axes.fill_between(thresholds, *bounds, step="post", color=color, alpha=0.13, linewidth=0)
        axes.plot(thresholds, own["value"], drawstyle="steps-post", label=results.label(policy), **style)
    axes.set(xlim=(low, high), ylim=(-0.02, 1.02), yticks=[0, 0.25, 0.5, 0.75, 1])
    axes.set(xlabel="test accuracy", ylabel="share of runs above it")
    axes.grid(**_GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    attacks = ", ".join(results.comparison.attacks)
    title = f"{results.comparison.task}, {results.comparison.heading(num_byzantine)}, attacks {attacks}"
    axes.set_title(textwrap.fill(title, 80), loc="left", fontsize=11)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    return figure


def byzantine_credits(results: Results, num_byzantine: int) -> Figure | None:
    """Credit on Byzantine workers at the end of the runs.

    None where no policy gives credits, or no worker is Byzantine.
    """
    summary = summarise(results.runs, num_byzantine, results.comparison.attacks)
    credits = {key: entry["byzantine_credit"] for key, entry in summary.items()}
    given = {key for key, credit in credits.items() if not math.isnan(credit)}
    policies = [policy for policy in results.played(num_byzantine) if policy in {name for name, _ in given}]
    attacks = [attack for attack in results.comparison.attacks if attack in {name for _, name in given}]
    if not policies:
        return None
    figure = Figure(figsize=(7, 1.1 + 0.5 * len(policies)))
    axes = figure.subplots()
    if results.comparison.roles == "static":  # elsewhere it depends on the round
        share = num_byzantine / results.comparison.num_workers
        axes.axvline(share, color="#888888", linestyle=(0, (2, 2)), linewidth=1.2, label="equal credits")
    markers = "osD^vPX*<>"
    for number, attack in enumerate(attacks):
        offset = 0.5 * ((number + 0.5) / len(attacks) - 0.5)
        axes.scatter(
            [credits[policy, attack] for policy in policies],
            [row + offset for row in range(len(policies))],
            color=[_COLORS[number % len(_COLORS)]],
            marker=markers[number % len(markers)],
            s=42,
            label=attack,
            zorder=3,
            clip_on=False,
        )
    axes.set_yticks(range(len(policies)), [results.label(policy) for policy in policies])
    axes.set(xlim=(-0.02, 1.02), ylim=(len(policies) - 0.5, -0.5))
    axes.set_xlabel("credit on Byzantine workers, mean of the last tenth of the rounds")
    axes.set_title(results.comparison.heading(num_byzantine, attacks), loc="left", fontsize=11)
    axes.grid(axis="x", **_GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    return figure


def _curves(axes: Any, results: Results, attack: str, num_byzantine: int) -> None:
    """Draw a line and a band for each policy."""
    curves = results.curves
    here = curves[(curves["attack"] == attack) & (curves["num_byzantine"] == num_byzantine)]
    for policy in results.played(num_byzantine):
        rounds = here[here["policy"] == policy].groupby("round")["accuracy"]
        if not len(rounds):  # not finished
            continue
        mean, std = rounds.mean(), rounds.std(ddof=1).fillna(0.0)
        style = _style(results, policy)
        axes.fill_between(mean.index, mean - std, mean + std, color=style["color"], alpha=0.13, linewidth=0)
        axes.plot(mean.index, mean, label=results.label(policy), **style)
    axes.set(xlim=(0, results.comparison.rounds), ylim=(0, 1), yticks=[0, 0.25, 0.5, 0.75, 1])
    axes.grid(axis="y", **_GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _label_ends(axes: Any) -> None:
    """Write each line's name at its end; names that would overlap are moved apart.

    Where there are too many for the height of the axes, they stand closer and are smaller.
    """
    lines = sorted(axes.lines, key=lambda line: (line.get_ydata()[-1], line.get_label()))
    gap = min(_GAP, (1 - 2 * _MARGIN) / max(1, len(lines) - 1))
    heights = [max(line.get_ydata()[-1], _MARGIN) for line in lines]
    for number in range(1, len(heights)):  # up, away from the name below
        heights[number] = max(heights[number], heights[number - 1] + gap)
    highest = 1 - _MARGIN
    for number in reversed(range(len(heights))):  # and back down into the axes
        heights[number] = min(heights[number], highest)
        highest = heights[number] - gap
    for line, height in zip(lines, heights, strict=True):
        rounds, color = line.get_xdata()[-1], line.get_color()
        axes.annotate(
            line.get_label(),
            xy=(rounds, line.get_ydata()[-1]),
            xytext=(rounds * 1.04, height),
            color=color,
            va="center",
            fontsize=10 * gap / _GAP,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.8, "alpha": 0.7, "relpos": (0, 0.5)},
        )


def _style(results: Results, policy: str) -> dict[str, Any]:
    """The same colour and dashes for a policy in every figure."""
    if policy in results.references:
        return {"color": _REFERENCE_COLOR, "linestyle": "--", "linewidth": 1.6, "zorder": 4}
    if policy in _AGENT_DASHES:
        return {"color": _AGENT_COLOR, "linestyle": _AGENT_DASHES[policy], "linewidth": 2.4, "zorder": 5}
    special = {*_AGENT_DASHES, *results.references}
    number = [name for name in results.comparison.policies if name not in special].index(policy)
    dashes = _DASHES[(number // len(_COLORS)) % len(_DASHES)]
    return {"color": _COLORS[number % len(_COLORS)], "linestyle": dashes, "linewidth": 1.8, "zorder": 3}
