"""Frames of copies, of the null slot and of losses."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from matplotlib.figure import Figure

from byzgym.envs.rendering import History, draw_figure

ID = "ByzantineAggregation-v0"
TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "rounds": 6}


@pytest.mark.parametrize("again", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_draws_what_the_original_draws(again):
    env = gym.make(ID, render_mode="rgb_array", **TINY)
    env.reset(seed=0)
    frame = env.render()
    copied = again(env)
    assert np.array_equal(copied.render(), frame)
    copied.step(np.eye(6)[0])
    assert not np.array_equal(copied.render(), frame)
    assert np.array_equal(env.render(), frame)


def test_credit_of_the_null_slot_is_shown():
    env = gym.make(ID, render_mode="ansi", action="null_slot", **TINY)
    env.reset(seed=0)
    assert "zero vector" not in env.render()
    env.step(np.array([0.25, 0, 0, 0, 0, 0, 0.75]))
    assert "zero vector 0.75" in env.render()


@pytest.mark.parametrize(
    ("losses", "scale"), [([2.0, 0.1], "log"), ([2.0, 0.3], "linear"), ([2.0, 0.0], "linear"), ([], "linear")]
)
def test_axis_of_the_loss(losses, scale):
    """More than a decade is shown on a logarithmic axis, which has no place for a loss of zero."""
    history = History()
    history.losses = losses
    history.accuracies = [0.5] * len(losses)
    figure = Figure()
    draw_figure(figure, history)
    assert figure.axes[1].get_title() == "quasi-validation loss"
    assert figure.axes[1].get_yscale() == scale
