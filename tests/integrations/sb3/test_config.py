import json

import pytest

from byzgym.integrations.sb3.config import NAME, TrainingConfig

ENVIRONMENT = {"task": "synthetic", "attack": ("ipm", "alie"), "rules": None}


def test_it_is_read_as_it_was_written(tmp_path):
    config = TrainingConfig(
        algorithm="sac", environment=ENVIRONMENT, softmax_beta=5.0, settings={"gamma": 0.5}
    )
    (tmp_path / NAME).write_text(config.text())
    assert TrainingConfig.read(tmp_path / NAME) == config
    assert TrainingConfig.beside(tmp_path / "model.zip") == config
    assert TrainingConfig.beside(tmp_path / "checkpoints" / "7.zip") == config
    assert TrainingConfig.beside(tmp_path / "other" / "model.zip") is None
    assert {"byzgym", "torch", "stable_baselines3", "python"} <= config.versions.keys()


def test_contradictions_are_named():
    held = TrainingConfig(algorithm="sac", environment=ENVIRONMENT, seed=3)
    given = TrainingConfig(algorithm="ppo", environment={**ENVIRONMENT, "attack": ("ipm",)})
    assert held.contradictions(held, {"algorithm", "attack", "seed"}) == []
    assert given.contradictions(held, {"algorithm", "attack", "rules"}) == [
        "attack ipm instead of ipm alie",
        "algorithm ppo instead of sac",
    ]


@pytest.mark.parametrize("text", ["[]", "{}", "3", '{"algorithm": "ppo", "versions": {"torch": "2.14"}}'])
def test_the_file_of_another_program(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    assert TrainingConfig.beside(tmp_path / "model.zip") is None
    with pytest.raises(ValueError, match=r"training\.json is not of byzgym train"):
        TrainingConfig.read(tmp_path / NAME)


def test_a_file_that_is_cut_off(tmp_path):
    text = TrainingConfig(algorithm="sac", environment=ENVIRONMENT).text()
    for part in ("", text[: len(text) // 2]):
        (tmp_path / NAME).write_text(part)
        with pytest.raises(ValueError, match=r"training\.json must hold JSON: .* line \d+ column \d+"):
            TrainingConfig.beside(tmp_path / "model.zip")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": 3}, "algorithm must be a name such as 'ppo', got 3"),
        ({"environment": []}, r"environment must be a mapping, got \[\]"),
        ({"environment": {"tsk": "digits"}}, "environment: unknown argument 'tsk'; did you mean 'task'"),
        ({"settings": None}, "settings must be a mapping, got None"),
        ({"softmax_beta": -1.0}, r"softmax_beta \(unless None\) must be .* greater than 0, got -1.0"),
        ({"softmax_beta": "ten"}, "softmax_beta .* got 'ten'"),
        ({"reward_floor": 1}, "reward_floor must be a finite number of at most 0, got 1"),
        ({"seed": -1}, "seed must be an integer from 0 to 4294967295, got -1"),
        ({"num_envs": "four"}, "num_envs must be an integer of at least 1, got 'four'"),
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"steps_done": 0.5}, "steps_done must be an integer of at least 0, got 0.5"),
        ({"imports": "my_module"}, "imports must be a list of names, got 'my_module'"),
        ({"stesp": 3}, "unknown argument 'stesp'; did you mean 'steps'"),
        ({"steps": ...}, "steps missing"),
    ],
)
def test_a_damaged_file(tmp_path, changes, message):
    held = json.loads(TrainingConfig(algorithm="sac", environment=ENVIRONMENT).text()) | changes
    (tmp_path / NAME).write_text(json.dumps({name: v for name, v in held.items() if v is not ...}))
    with pytest.raises((ValueError, TypeError), match=rf"training\.json: .*{message}"):
        TrainingConfig.beside(tmp_path / "model.zip")


def test_objects_have_no_form():
    with pytest.raises(TypeError, match="not JSON serializable"):
        TrainingConfig(algorithm="ppo", environment={"attack": lambda *_: None})
