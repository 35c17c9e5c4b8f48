import numpy as np
import pytest

from byzgym.integrations.sb3 import CutAtFloor, make_vec_env


def test_low_rewards_end_episodes(tiny, monkeypatch):
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


def test_terminal_observations_of_parts(tiny, monkeypatch):
    venv = make_vec_env(2, **tiny)
    parts = {"norms": np.array([[1.0], [2.0]]), "loss": np.array([[3.0], [4.0]])}
    step = parts, np.array([0.0, -1.0]), np.array([False, False]), [{}, {}]
    monkeypatch.setattr(venv, "step_wait", lambda: step)
    told = CutAtFloor(venv, -0.25).step_wait()[3]
    assert told[0] == {}
    assert told[1]["terminal_observation"] == {"norms": [2.0], "loss": [4.0]}


@pytest.mark.parametrize("floor", [0.1, float("nan"), -float("inf"), "low"])
def test_bad_floors_are_refused(tiny, floor):
    with pytest.raises(ValueError, match="floor must be a finite number of at most 0"):
        CutAtFloor(make_vec_env(2, **tiny), floor)
