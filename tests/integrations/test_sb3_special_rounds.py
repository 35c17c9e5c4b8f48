"""Rounds out of the ordinary: floored and truncated at once, rejected rows; and an unused parameter."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from byzgym.integrations.sb3 import CutAtFloor, DirichletPolicy, EquivariantExtractor, make_vec_env
from byzgym.integrations.sb3.features import _described


def test_an_episode_that_ends_below_the_floor_is_not_only_out_of_time(tiny, monkeypatch):
    venv = make_vec_env(4, **tiny)
    rewards = np.array([-0.5, 0.1, -0.5, -0.2], np.float32)
    dones = np.array([True, True, False, False])
    infos = [{"TimeLimit.truncated": bool(done)} for done in dones]
    infos[0]["terminal_observation"] = infos[1]["terminal_observation"] = "of the environment"
    monkeypatch.setattr(venv, "step_wait", lambda: (np.eye(4), rewards, dones, infos))
    _, floored, ended, told = CutAtFloor(venv, -0.25).step_wait()
    assert floored.tolist() == pytest.approx([-0.25, 0.1, -0.25, -0.2])
    assert ended.tolist() == [True, True, True, False]
    assert [info["TimeLimit.truncated"] for info in told] == [False, True, False, False]
    assert [info.get("terminal_observation") for info in told[:2]] == ["of the environment"] * 2
    assert told[2]["terminal_observation"].tolist() == [0, 0, 1, 0]
    assert "terminal_observation" not in told[3]


def test_an_episode_cut_at_the_floor_has_the_last_of_each_part(tiny, monkeypatch):
    venv = make_vec_env(2, **tiny)
    parts = {"norms": np.array([[1.0], [2.0]]), "loss": np.array([[3.0], [4.0]])}
    step = parts, np.array([0.0, -1.0]), np.array([False, False]), [{}, {}]
    monkeypatch.setattr(venv, "step_wait", lambda: step)
    told = CutAtFloor(venv, -0.25).step_wait()[3]
    assert told[0] == {}
    assert told[1]["terminal_observation"] == {"norms": [2.0], "loss": [4.0]}


def test_a_rejected_row_is_not_the_shortest():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 20.0]])  # norms 5, 0 and 20
    seen = _described(rows.log1p()[None], None)[0]
    relative, received = seen[:, 4], seen[:, -1]
    assert received.tolist() == [1, 0, 1]
    assert relative.tolist() == pytest.approx([0, 0, np.log(4)], abs=1e-5)
    assert not seen[1].any()


def test_norms_are_given_relative_to_the_smallest():
    extractor = EquivariantExtractor(spaces.Dict({"norms": spaces.Box(0, 100, (3,), np.float32)}))
    rows = torch.tensor([[2.0, 0.5, 5.0], [2.0, 0.0, 5.0], [0.0, 0.0, 0.0]])  # zero: rejected
    seen = extractor({"norms": rows}).view(3, 3, 2)
    assert torch.equal(seen[..., 1], rows)
    assert seen[..., 0].tolist() == [[1.5, 0, 4.5], [0, -2, 3], [0, 0, 0]]


@pytest.mark.global_rng
def test_the_deviation_that_the_dirichlet_policy_does_not_use_is_not_trained(tiny):
    env = make_vec_env(1, **tiny)
    policy = DirichletPolicy(env.observation_space, env.action_space, lambda _: 1e-3)
    assert not policy.log_std.requires_grad
    assert policy.action_net.weight.requires_grad
