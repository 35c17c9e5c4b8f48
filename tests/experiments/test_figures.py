import dataclasses
from itertools import pairwise

import matplotlib
import pandas as pd
import pytest
from matplotlib.figure import Figure

from byzgym.experiments import figures, series, traces
from byzgym.experiments.figures import credits, curves, maps, style
from byzgym.experiments.report.plots import maps as report_maps
from byzgym.experiments.statistics import counted

KINDS = ["overview", "accuracy_f7", "final_f7", "profile_f7", "detection_f7", "credits_f7"]
NAMES = [f"{kind}.png" for kind in KINDS]


def palette(results, *highlight):
    return style.Palette(results, highlight)


def with_more_f(results, *numbers):
    """The results with the same runs for other numbers of Byzantine workers."""
    comparison = dataclasses.replace(results.comparison, num_byzantine=(*numbers, 7))
    tables = {
        name: pd.concat(
            [*(getattr(results, name).assign(num_byzantine=f) for f in numbers), getattr(results, name)]
        )
        for name in ("runs", "curves")
    }
    return dataclasses.replace(results, comparison=comparison, **tables)


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
    figure = credits.detection(dataclasses.replace(results, comparison=comparison), 7, palette(results))
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert ("equal credits" in labels) is drawn


def test_profiles_fit_the_data_and_name_what_was_played(results):
    (axes, *_) = curves.profiles(results, 7, palette(results)).axes
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
    changed = dataclasses.replace(results, comparison=comparison, runs=runs)
    figure = curves.profiles(changed, 7, palette(changed))
    assert len(figure.axes[0].lines) == lines
    assert len(figure.axes[0].collections) == bands


def test_no_bands_from_one_seed(results):
    one = dataclasses.replace(results, runs=results.runs[results.runs["seed"] == 0])
    assert not curves.profiles(one, 7, palette(one)).axes[0].collections
    assert not curves.overview(one, palette(one)).axes[0].collections


@pytest.mark.parametrize("count", [1, 16, 17, 40])
@pytest.mark.parametrize("end", [0.0, 0.5, 0.97])
def test_names_at_line_ends_do_not_overlap(count, end):
    axes = Figure(figsize=(8, 4)).subplots()
    for number in range(count):
        axes.plot([0, 10], [0.1, end], label=f"policy {number}")
    style.label_ends(axes)
    heights = [text.xyann[1] for text in axes.texts]
    assert len(heights) == count
    assert min(heights) >= 0.005
    assert max(heights) <= 0.995
    # What a line of text takes of the height of the axes, which are 4 * 0.77 inches high.
    taken = axes.texts[0].get_fontsize() / 72 / (4 * 0.77)
    assert all(above - below > taken for below, above in pairwise(heights))


def test_each_format_has_a_file(results, tmp_path):
    files = figures.draw(results, tmp_path, formats=("png", "pdf", "svg"))
    assert [path.name for path in files] == [
        f"{kind}.{end}" for kind in KINDS for end in ("png", "pdf", "svg")
    ]
    assert (tmp_path / "overview.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (tmp_path / "overview.svg").read_text()


def test_highlighted_policies_keep_their_colours(results):
    plain, chosen = palette(results), palette(results, "krum")
    assert chosen.line("krum").color == plain.line("krum").color
    grey = {chosen.line(policy).color for policy in results.comparison.policies if policy != "krum"}
    assert len(grey) == 1
    assert chosen.line("krum").order > chosen.line("oracle").order
    assert chosen.banded(results.comparison.policies) == ["krum"]
    assert palette(results, "not there").line("mean") == plain.line("mean")
    with pytest.raises(ValueError, match="unknown policy to highlight 'krumm'"):
        style.check_highlight(["krumm"], results.comparison.policies)


def test_of_many_policies_the_best_have_colours(many):
    best = series.best(many, style.BEST)
    assert len(best) == style.BEST
    worst = series.final(many, 7, many.comparison.policies)[series.WORST]
    others = worst.drop([*best, "oracle"])
    assert worst[best].is_monotonic_decreasing
    assert worst[best].min() >= others.max()
    chosen = palette(many)
    named = [policy for policy in many.comparison.policies if chosen.is_named(policy)]
    assert set(named) == {*best, "oracle"}
    lines = {(chosen.line(policy).color, chosen.line(policy).dashes) for policy in named}
    assert len(lines) == len(named)  # all can be told apart
    grey = {chosen.line(policy).color for policy in others.index}
    assert len(grey) == 1
    assert not grey & {color for color, _ in lines}
    label = f"{len(others)} others (best {style.BEST} by worst case in colour)"
    assert {chosen.entry(policy) for policy in others.index} == {label}
    assert chosen.ordered(many.comparison.policies)[: len(named)] == named
    assert chosen.layers(many.comparison.policies)[-1] not in others.index


def test_who_is_chosen_of_many_policies_is_the_only_one_in_colour(many):
    chosen = palette(many, "policy 30", "policy 31")
    assert chosen.is_named("policy 30")
    assert not chosen.is_named("policy 0")
    assert chosen.line("policy 30").color != chosen.line("policy 31").color
    assert chosen.entry("policy 0") == "43 others"
    assert chosen.banded(many.comparison.policies) == ["policy 30", "policy 31"]


def test_legends_of_many_policies_name_only_some(many):
    chosen = palette(many)
    label = chosen.entry("policy 39")
    names = [*series.best(many, style.BEST), "oracle (reference)"]
    profile = curves.profiles(many, 7, chosen)
    overview = curves.overview(many, chosen)
    panels = curves.accuracy_over_rounds(many, 7, chosen)
    legends = [profile.axes[0].get_legend(), panels.legends[0]]
    for legend in legends:
        found = [text.get_text() for text in legend.get_texts()]
        assert sorted(found[:-1]) == sorted(names)
        assert found[-1] == label
    assert sorted(text.get_text() for text in overview.axes[0].texts) == sorted(names)
    assert [text.get_text() for text in overview.axes[0].get_legend().get_texts()] == [label]
    assert len(profile.axes[0].lines) == len(many.comparison.policies)


def test_the_credits_of_many_policies_are_those_of_the_best(many):
    found = traces.read(dataclasses.replace(many), 7)
    some = [dataclasses.replace(found[0], policy=policy) for policy in ("policy 0", "policy 39")]
    figure = credits.traces(many, 7, some, palette(many))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["policy 0"]


def test_names_at_line_ends_are_inside_the_picture(results, many):
    for shown in (results, many):
        figure = curves.overview(shown, palette(shown))
        figure.draw_without_rendering()
        whole = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
        for text in figure.axes[0].texts:
            box = text.get_window_extent()
            assert whole.x0 <= box.x0 < box.x1 <= whole.x1
            assert whole.y0 <= box.y0 < box.y1 <= whole.y1


def test_long_names_are_shortened_apart(results):
    long = [f"model:runs/{number}/of/a/folder/with/a/long/name/model.zip" for number in range(3)]
    policies = (*long, *results.comparison.policies)
    several = dataclasses.replace(
        results, comparison=dataclasses.replace(results.comparison, policies=policies)
    )
    names = [palette(several).name(policy) for policy in long]
    assert len(set(names)) == 3
    assert max(map(len, names)) < len(long[0])


def test_rows_of_settings_are_told_apart(results):
    common = "task=synthetic, partition=dirichlet:alpha=0.1, worker_momentum="
    names = [f"{common}{value}, weight_decay=0.0001" for value in (0.5, 0.9)]
    figure = maps.settings([results, results], names)
    rows = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert [" ".join(row.split()) for row in rows] == names
    group = report_maps.settings([results, results], names)
    ticks = group.plots[0].layout["yaxis"]["ticktext"]
    assert [tick.replace("<br>", " ") for tick in ticks] == names


def test_the_title_of_a_sweep_names_all_tasks(results):
    changes = {"task": "validation:digits", "num_workers": 20, "attacks": ("sign_flip", "gambler")}
    other = dataclasses.replace(results, comparison=dataclasses.replace(results.comparison, **changes))
    figure = maps.settings([results, other], ["a", "b"])
    title = " ".join(figure.get_suptitle().split())
    assert title == (
        "synthetic, validation:digits: accuracy in %, the worst of the attacks sign_flip, ipm:epsilon=2.0, "
        "gambler; f = 7 of 10 or 20 workers (none under gambler)"
    )


def test_the_overview_shows_who_is_highlighted(results):
    """krum has played only ipm here, and only with f = 3."""
    runs, attack = results.runs, "ipm:epsilon=2.0"
    runs = pd.concat([runs, runs.assign(num_byzantine=3)])
    krum = runs["policy"] == "krum"
    here = (runs["attack"] == attack) & (runs["num_byzantine"] == 3)
    comparison = dataclasses.replace(results.comparison, num_byzantine=(3, 7))
    part = dataclasses.replace(results, comparison=comparison, runs=runs[~krum | here])
    assert curves.shown_first(part) == (7, "sign_flip")
    assert curves.shown_first(part, ["mean"]) == (7, "sign_flip")
    assert curves.shown_first(part, ["krum"]) == (3, attack)


def test_faults_in_transmission_have_no_byzantine_workers_in_any_title(results):
    fault = "gambler:probability=0.01"
    both = with_more_f(renamed_attack(results, "ipm:epsilon=2.0", fault), 3)
    chosen = palette(both)
    found = {
        "accuracy": (curves.accuracy_over_rounds(both, 7, chosen).axes[1], "rules told f = 7"),
        "breakdown": (curves.breakdown(both, chosen).axes[2], "rules told f = 3, 7"),
    }
    for axes, told in found.values():
        title = " ".join(axes.get_title(loc="left").split())
        assert title == f"{fault}, none Byzantine, {told}"
    worst = " ".join(curves.breakdown(both, chosen).axes[0].get_title(loc="left").split())
    assert worst == f"worst case, f = 3, 7 (none under {fault})"


def renamed_attack(results, attack, name):
    attacks = tuple(name if one == attack else one for one in results.comparison.attacks)
    comparison = dataclasses.replace(results.comparison, attacks=attacks)
    tables = {one: getattr(results, one).replace(attack, name) for one in ("runs", "curves", "expected")}
    return dataclasses.replace(results, comparison=comparison, **tables)


def test_rounds_are_whole_numbers(results):
    axes = curves.overview(results, palette(results)).axes[0]
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_axes_fit_the_data_and_cut_nothing(results):
    curve = results.curves.assign(accuracy=0.9 + results.curves["accuracy"] / 20)
    figure = curves.accuracy_over_rounds(dataclasses.replace(results, curves=curve), 7, palette(results))
    low, high = figure.axes[0].get_ylim()
    assert 0.8 < low < curve["accuracy"].min()
    drawn = [axes.dataLim for axes in figure.axes]  # with the bands
    assert low < min(box.y0 for box in drawn)
    assert high > max(box.y1 for box in drawn)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "sign_flip, f = 7",
        "ipm:epsilon=2.0, f = 7",
    ]


def test_breakdown_curves_have_the_worst_case_first(results):
    several = with_more_f(results, 3)
    table = series.breakdown(several)
    worst = table[table["attack"] == series.WORST].set_index(["policy", "num_byzantine"])["mean"]
    means = counted(results.runs).groupby(["policy", "attack"])["accuracy"].mean().groupby("policy").min()
    for f in (3, 7):
        assert worst.xs(f, level=1).to_dict() == pytest.approx(means.to_dict())
    figure = curves.breakdown(several, palette(several))
    assert figure.axes[0].get_title(loc="left") == "worst case, f = 3, 7"
    assert [line.get_xdata().tolist() for line in figure.axes[0].lines] == [[3, 7]] * 5


def test_a_sweep_has_a_map_of_settings_and_f(results):
    several = with_more_f(results, 3)
    other = dataclasses.replace(several, runs=several.runs[several.runs["num_byzantine"] == 3])
    numbers, found = series.setting_maps([several, other], ["mean", "krum"])
    assert numbers == [3, 7]
    worst = series.final(results, 7, ["mean", "krum"])[series.WORST]
    assert found["mean"][:, 0].tolist() == [worst["mean"]] * 2
    assert found["krum"][0].tolist() == [worst["krum"]] * 2
    assert pd.isna(found["krum"][1, 1])
    figure = maps.settings([several, other], ["iid", "dirichlet"])
    shown = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in shown][-1] == "oracle (reference)"
    assert [text.get_text() for text in shown[0].texts][-1] == "–"


def test_shades_say_the_role_and_the_credit(results):
    oracle = next(trace for trace in traces.read(results, 7) if trace.policy == "oracle")
    colors = credits.shades(oracle)
    red, blue = colors[..., 0], colors[..., 2]
    assert (red[oracle.byzantine.T] > blue[oracle.byzantine.T]).all()
    assert (red[~oracle.byzantine.T] < blue[~oracle.byzantine.T]).all()
