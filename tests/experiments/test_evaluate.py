"""Playing episodes with one policy."""

import pandas as pd
import pytest

from byzgym import agents
from byzgym.cli import main
from byzgym.experiments.evaluate import evaluate, make_environment, policy_by_name

SETTING = {"task": "synthetic", "rounds": 4, "num_byzantine": 7, "attack": ["ipm", "alie"]}


@pytest.fixture
def env():
    env = make_environment(SETTING)
    env.reset(seed=0)
    yield env
    env.close()


def test_an_episode_starts_once(env):
    predict, starts = policy_by_name("gaa", env)[0], []

    def noting(observation, *, episode_start, **others):
        starts.append(episode_start.tolist())
        return predict(observation, episode_start=episode_start, **others)

    table = evaluate(env, noting, 2, 0)
    assert table["rounds"].tolist() == [4, 4]
    assert starts == [[True], [False], [False], [False]] * 2


def test_every_episode_has_its_own_seed(env):
    predict = policy_by_name("gaa", env)[0]
    table = evaluate(env, predict, 3, 5)
    assert table["seed"].tolist() == [5, 6, 7]
    alone = evaluate(env, predict, 1, 6)
    pd.testing.assert_frame_equal(table.iloc[[1]].reset_index(drop=True), alone)
    assert table["return"].nunique() == 3


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"frames": 0}, "frames must be an integer of at least 1, got 0"),
        ({"episodes": 0}, "episodes must be an integer of at least 1, got 0"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
    ],
)
def test_numbers_that_are_not_allowed(env, counts, message):
    with pytest.raises(ValueError, match=message):
        evaluate(env, policy_by_name("mean", env)[0], **{"episodes": 1, "seed": 0, **counts})


def test_an_unknown_policy_is_told_of_rules_and_agents(capsys):
    assert main(["evaluate", "--task", "synthetic", "--policy", "nobody"]) == 2
    told = capsys.readouterr().err
    assert f"known: {', '.join(agents.names())}" in told
    assert "gaa" in told


def test_a_policy_without_a_name_is_refused(capsys):
    assert main(["evaluate", "--task", "synthetic", "--rounds", "3", "--policy", ""]) == 2
    assert "expected 'name' or 'name:key=value,...', got ''" in capsys.readouterr().err
