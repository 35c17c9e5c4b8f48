import gymnasium as gym
import numpy as np
import pytest

from byzgym import agents
from byzgym.experiments.play import play_episodes
from byzgym.integrations.sb3 import evaluation, learners

SETTING = {"task": "synthetic", "rounds": 5, "attack": ["gaussian", "ipm"]}  # some episodes diverge


@pytest.mark.parametrize("name", ["uniform", "median", "norm_clipping:max_norm=1"])
def test_a_control_plays_the_first_episodes(name):
    scores = evaluation.play_control(name, 6, {**SETTING, "action": "rule", "rules": ["mean"]})
    agent = agents.make_from(name)
    env = gym.make("ByzantineAggregation-v0", **SETTING, action="null_slot" if agent.linear else "update")
    table = play_episodes(env, agent.bind(env).predict, 6, evaluation.FIRST_SEED)
    assert scores["return"] == pytest.approx(table["return"].mean(), rel=1e-3)
    assert scores["return_std"] == pytest.approx(table["return"].std(), rel=1e-3)
    assert scores["accuracy"] == pytest.approx(table["accuracy"].mean(), rel=1e-3)
    assert scores["diverged"] == table["diverged"].mean()


def test_the_same_episodes_each_time():
    env = evaluation.environments(3, None, SETTING)

    def predict(observations, state, starts, deterministic):
        return np.full((3, 10), 0.1, np.float32), state

    assert evaluation.play(env, predict) == evaluation.play(env, predict)


def test_controls_are_those_that_exist(monkeypatch):
    assert {"uniform", "gaa", "oracle"} <= set(evaluation.controls()) <= set(evaluation.CONTROLS)
    monkeypatch.setattr(evaluation, "CONTROLS", ("uniform", "not_there_yet"))
    assert evaluation.controls() == ["uniform"]


def test_seeds_are_disjoint():
    assert evaluation.FIRST_SEED + 10**9 < learners.FIRST_SEED
