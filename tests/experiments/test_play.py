"""What `play_batch` notes of a run."""

from itertools import pairwise

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from byzgym import agents
from byzgym.experiments import compare
from byzgym.experiments.comparison import Comparison
from byzgym.experiments.figures import _label_ends


def small(**changes):
    given = {"task": "synthetic", "rounds": 6, "seeds": 2, "attacks": ("ipm",), "policies": ("oracle",)}
    return Comparison(**{**given, **changes})


def test_credits_are_held_against_the_roles_of_their_own_round():
    comparison = small(roles="randomized:period=1", rounds=20)
    for run in compare.play_batch(comparison, "oracle", 4).results:
        assert (run["byzantine_credit"], run["detection_auc"]) == (0.0, 1.0)


@pytest.mark.parametrize(("times", "diverged"), [(999, False), (1001, True)])
def test_a_loss_of_a_thousand_times_that_at_the_start_has_diverged(monkeypatch, times, diverged):
    def measure(simulation):
        return torch.full((simulation.num_envs,), 0.5), times * simulation.initial_loss

    monkeypatch.setattr(compare, "_measure", measure)
    assert [run["diverged"] for run in compare.play_batch(small(), "mean", 3).results] == [diverged] * 2


@pytest.mark.parametrize(("every", "rounds"), [(2, [0, 2, 4, 6]), (4, [0, 4, 6]), (6, [0, 6]), (9, [0, 6])])
def test_every_point_of_the_curves_is_there_once(every, rounds):
    curves = pd.DataFrame(compare.play_batch(small(evaluate_every=every), "mean", 3).curves)
    for _, points in curves.groupby(["policy", "attack", "num_byzantine", "seed"]):
        assert points["round"].tolist() == rounds


def test_one_thread_while_small_models_are_played_and_as_many_as_before_after_it():
    seen = []

    class Counting:
        def reset(self):
            pass

        def aggregate(self, view):
            seen.append(torch.get_num_threads())
            return view.gradients.mean(1)

    agents.register("test_counting", Counting)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        compare.play_batch(small(), "test_counting", 3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


@pytest.mark.parametrize("count", [1, 16, 17, 40])
@pytest.mark.parametrize("end", [0.0, 0.5, 0.97])
def test_names_of_lines_that_end_together_stay_inside_the_axes(count, end):
    axes = Figure(figsize=(8, 4)).subplots()
    _label_ends(axes, [(end, f"policy {number}", "black") for number in range(count)], 10)
    heights = [text.xyann[1] for text in axes.texts]
    assert len(heights) == count
    assert min(heights) >= 0.005
    assert max(heights) <= 0.995
    # What a line of text takes of the height of the axes, which are 4 * 0.77 inches high.
    taken = axes.texts[0].get_fontsize() / 72 / (4 * 0.77)
    assert all(above - below > taken for below, above in pairwise(heights))
