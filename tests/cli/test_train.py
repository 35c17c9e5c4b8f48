import pytest

from byzgym import files
from byzgym.integrations.sb3 import training

pytestmark = pytest.mark.global_rng
SETTING = ["--task", "synthetic", "--rounds", "4"]
TRAIN = ["train", *SETTING, "--steps", "8", "--num-envs", "4", "--out"]


def test_the_model_is_saved_and_played(tmp_path, output, mistake):
    path = tmp_path / "model.zip"
    command = f"byzgym evaluate --model-path {path} --algorithm ppo {' '.join(SETTING)}"
    assert output(*TRAIN, tmp_path) == f"{path}; `{command}` plays it\n"
    assert "--overwrite" in mistake(*TRAIN, tmp_path)
    play = ["evaluate", *SETTING, "--model-path", path, "--episodes", "1"]
    assert "observation_space" in mistake(*play, "--num-workers", "5", "--num-byzantine", "3")
    assert output(*play) == output(*play, "--softmax-beta", "10") != output(*play, "--softmax-beta", "0.5")


@pytest.mark.parametrize(
    ("algorithm", "observation"),
    [("ppo", ["trust"]), ("a2c", ["pooled"]), ("sac", []), ("sac", ["pooled"]), ("td3", ["trust"])],
)
def test_all_learners(tmp_path, output, algorithm, observation):
    parts = ["--observation", *observation] if observation else []
    train = ["train", *SETTING, *parts, "--algorithm", algorithm, "--steps", "200", "--num-envs", "3"]
    command = output(*train, "--out", tmp_path).split("`")[1]
    assert f"--algorithm {algorithm}" in command
    assert ("--observation" in command) == bool(observation)
    output(*command.split()[1:], "--episodes", "1")


def test_nothing_is_trained_in_vain(tmp_path, mistake, monkeypatch):
    monkeypatch.setattr(training, "learn", lambda *_: pytest.fail("trained"))
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "out must be a folder that can be written to, got" in mistake(*TRAIN, out)
    with files.lock(tmp_path / "out"):
        assert "is writing to" in mistake(*TRAIN, tmp_path / "out")


def test_a_model_that_cannot_be_saved(tmp_path, mistake, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stable_baselines3.PPO.save", full)
    monkeypatch.setattr(training, "learn", lambda *_: None)
    assert f"cannot write {tmp_path / 'model.zip'}: No space left on device" in mistake(*TRAIN, tmp_path)
    assert not (tmp_path / "model.zip").exists()
