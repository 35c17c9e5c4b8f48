"""Frames of a second episode show only that one."""

import gymnasium as gym
import numpy as np

ID = "ByzantineAggregation-v0"
TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "attack": "none", "rounds": 6}
UNIFORM = np.full(6, 1 / 6, np.float32)


def play_into_the_second_episode(mode):
    """Three rounds of one episode and one of the next."""
    env = gym.make(ID, render_mode=mode, **TINY).unwrapped
    for rounds in (3, 1):
        env.reset(seed=0)
        for _ in range(rounds):
            env.step(UNIFORM)
    return env


def test_text_counts_the_rounds_of_the_present_episode():
    assert play_into_the_second_episode("ansi").render().startswith("round    1 ")


def test_curves_begin_with_the_present_episode():
    env = play_into_the_second_episode("rgb_array")
    env.render()
    bars, losses, accuracies = env._renderer._figure.axes
    assert bars.get_title().startswith("Round 1:")
    for axes in (losses, accuracies):
        assert axes.lines[0].get_xdata().tolist() == [0, 1]
