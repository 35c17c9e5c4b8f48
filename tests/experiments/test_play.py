"""What `play_batch` notes of a run."""

from itertools import pairwise

import gymnasium as gym
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from byzgym import agents, attacks
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


class Careless(agents.Agent):
    """Gives what it was built with."""

    def __init__(self, credits=None, update=None):
        self.linear = credits is not None
        self.given, self.update = credits, update

    def credits(self, view):
        return self.given

    def aggregate(self, view):
        return self.update

    def __repr__(self):
        return "Careless()"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"credits": torch.full((1, 3), 0.1)},
            r"Careless\(\) must give credits of shape \(1, 10\), got \(1, 3\)",
        ),
        ({"credits": torch.ones(1, 10)}, r"Careless\(\) must give credits that .* sum to at most 1"),
        ({"update": torch.ones(7)}, r"Careless\(\) must return aggregates of shape .*got \(7,\)"),
        ({"update": torch.ones(1, 3) * 1j}, r"Careless\(\) must return .* real numbers, got torch.complex64"),
    ],
)
def test_what_an_agent_gives_is_checked_before_anything_is_played(given, message, tmp_path):
    agents.register("test_careless", lambda: Careless(**given))
    with pytest.raises((TypeError, ValueError), match=message):
        compare.begin(small(policies=("test_careless",)), tmp_path / "out")
    env = gym.make("ByzantineAggregation-v0", task="synthetic")
    observation, _ = env.reset(seed=0)
    agent = agents.make("test_careless").bind(env)
    with pytest.raises((TypeError, ValueError), match=message):
        agent.predict(observation)


def test_an_agent_is_played_as_in_the_environment_where_submissions_are_rejected():
    class Even(agents.Agent):
        def credits(self, view):
            return torch.full_like(view.previous_credits, 1 / view.num_workers)

    agents.register("test_even", Even)
    attacks.register("test_nan", lambda: lambda gradients, byzantine, context: gradients * torch.nan)
    comparison = small(policies=("test_even",), attacks=("test_nan",))
    for run in compare.play_batch(comparison, "test_even", 4).results:
        assert run["byzantine_credit"] == 0.0


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
