import dataclasses
from itertools import pairwise

import matplotlib
import pandas as pd
import pytest
from matplotlib.figure import Figure

from byzgym.experiments import figures
from byzgym.experiments.statistics import counted

NAMES = ["overview.png", "accuracy_f7.png", "final_f7.png", "profile_f7.png", "credits_f7.png"]


def test_all_figures_are_drawn(results, tmp_path):
    assert [path.name for path in figures.draw(results, tmp_path)] == NAMES
    assert all((tmp_path / name).stat().st_size > 10_000 for name in NAMES)


def test_the_users_style_changes_nothing(results, tmp_path):
    plain = [path.read_bytes() for path in figures.draw(results, tmp_path)]
    broken = {"text.usetex": True, "font.family": "no such font", "mathtext.fontset": "stix"}
    with matplotlib.rc_context(broken):
        matplotlib.style.use("dark_background")
        before = dict(matplotlib.rcParams)
        assert [path.read_bytes() for path in figures.draw(results, tmp_path)] == plain
        assert dict(matplotlib.rcParams) == before


def test_dollars_in_names_are_no_formula(results, tmp_path):
    policies = ("$\\frac$", *results.comparison.policies[1:])
    comparison = dataclasses.replace(results.comparison, policies=policies)
    tables = {name: getattr(results, name).replace("mean", "$\\frac$") for name in ("runs", "curves")}
    assert figures.draw(dataclasses.replace(results, comparison=comparison, **tables), tmp_path)


@pytest.mark.parametrize(("roles", "drawn"), [("static", True), ("fluctuating", False)])
def test_equal_credits_where_they_are_known(results, roles, drawn):
    comparison = dataclasses.replace(results.comparison, roles=roles)
    figure = figures.byzantine_credits(dataclasses.replace(results, comparison=comparison), 7)
    (labels,) = [axes.get_legend_handles_labels()[1] for axes in figure.axes]
    assert ("equal credits" in labels) is drawn


def test_profiles_fit_the_data_and_name_what_was_played(results):
    (axes, *_) = figures.profiles(results, 7).axes
    low, high = axes.get_xlim()
    scores = counted(results.runs)["accuracy"]
    assert scores.min() - 0.05 < low < scores.min()
    assert scores.max() < high < scores.max() + 0.05
    title = " ".join(axes.get_title(loc="left").split())
    assert title == "synthetic, 7 of 10 workers Byzantine, attacks sign_flip, ipm:epsilon=2.0"
    for line, policy in zip(axes.lines, ("mean", "krum", "median", "gaa", "oracle"), strict=True):
        own = scores[results.runs["policy"] == policy].to_numpy()
        drawn = line.get_ydata()
        assert drawn.tolist() == pytest.approx([(own > t).mean() for t in line.get_xdata()])
        assert (drawn[0], drawn[-1]) == (1, 0)


@pytest.mark.parametrize(("lines", "bands"), [(6, 6), (7, 0)])
def test_no_bands_beyond_six_lines(results, lines, bands):
    names = tuple(f"policy {number}" for number in range(lines))
    one = results.runs[results.runs["policy"] == "mean"]
    runs = pd.concat([one.assign(policy=name) for name in names])
    comparison = dataclasses.replace(results.comparison, policies=names)
    figure = figures.profiles(dataclasses.replace(results, comparison=comparison, runs=runs), 7)
    assert len(figure.axes[0].lines) == lines
    assert len(figure.axes[0].collections) == bands


def test_no_bands_from_one_seed(results):
    one = dataclasses.replace(results, runs=results.runs[results.runs["seed"] == 0])
    assert not figures.profiles(one, 7).axes[0].collections


@pytest.mark.parametrize("count", [1, 16, 17, 40])
@pytest.mark.parametrize("end", [0.0, 0.5, 0.97])
def test_names_at_line_ends_do_not_overlap(count, end):
    axes = Figure(figsize=(8, 4)).subplots()
    for number in range(count):
        axes.plot([0, 10], [0.1, end], label=f"policy {number}")
    figures._label_ends(axes)
    heights = [text.xyann[1] for text in axes.texts]
    assert len(heights) == count
    assert min(heights) >= 0.005
    assert max(heights) <= 0.995
    # What a line of text takes of the height of the axes, which are 4 * 0.77 inches high.
    taken = axes.texts[0].get_fontsize() / 72 / (4 * 0.77)
    assert all(above - below > taken for below, above in pairwise(heights))
