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


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", json.dumps({"arguments": {}}), '{"algorithm": "ppo", "environment": {}, "steps": 0}'],
)
def test_other_files(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is not the config\.json of a training"):
        TrainingConfig.read(tmp_path / NAME)


def test_objects_have_no_form():
    with pytest.raises(TypeError, match="not JSON serializable"):
        TrainingConfig(algorithm="ppo", environment={"attack": lambda *_: None})
