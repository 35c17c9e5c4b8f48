import shlex
from dataclasses import replace

import pytest

from byzgym import files
from byzgym.cli import main
from byzgym.integrations.sb3 import evaluation, training
from byzgym.integrations.sb3.config import TrainingConfig

pytestmark = pytest.mark.global_rng
SETTING = ["--task", "synthetic", "--rounds", "4"]
TRAIN = ["train", *SETTING, "--num-envs", "128", "--evaluation-episodes", "2", "--steps", "256", "--out"]


@pytest.fixture(autouse=True)
def _few_controls(monkeypatch):
    monkeypatch.setattr(evaluation, "CONTROLS", ("uniform",))


def test_the_model_is_saved_and_played(tmp_path, output, mistake):
    path = tmp_path / "model.zip"
    lines = output(*TRAIN, tmp_path, "--qv-size", "20").splitlines()
    assert lines[0].startswith("uniform                  return")
    assert lines[1].startswith("ppo, 1280 steps          return")
    options = "--task synthetic --qv-size 20 --rounds 4 --reward held_out"
    command = f"byzgym evaluate --model-path {path} {options}"
    assert lines[2] == f"{path}; `{command}` plays it"
    play = [*shlex.split(command)[1:], "--episodes", "1"]
    assert "trained with" not in output(*play)
    assert "trained with qv_size 20, evaluated with 10" in output(*play, "--qv-size", "10")
    assert "return: " in output(*play, "--num-workers", "5")
    parts = "observation similarity trust relative_norms reputation history age"
    assert f"{parts}, got trust" in mistake(*play, "--observation", "trust")
    assert "softmax_beta 10.0, got 5.0" in mistake(*play, "--softmax-beta", "5")
    for words in ("", "--overwrite", "--resume"):
        assert words in mistake(*TRAIN, tmp_path)


def test_a_model_without_config_is_played_with_flags(tmp_path, output, mistake):
    output(*TRAIN, tmp_path, "--observation", "trust")
    (tmp_path / "training.json").unlink()
    play = ["evaluate", *SETTING, "--model-path", tmp_path / "model.zip", "--episodes", "1"]
    assert "observation_space" in mistake(*play)
    play += ["--observation", "trust"]
    assert output(*play) == output(*play, "--algorithm", "ppo") == output(*play, "--softmax-beta", "10")
    assert output(*play) != output(*play, "--softmax-beta", "0.5")


def test_a_training_goes_on(tmp_path, output, mistake):
    output(*TRAIN, tmp_path)
    resume = ["train", "--out", tmp_path, "--resume"]
    assert "has 1280 steps; say with --steps" in mistake(*resume)
    error = mistake(*resume, "--steps", "2000", "--rounds=5", "--qv-size", "10", "--algorithm", "sac")
    assert "leave out: rounds 5 instead of 4; algorithm sac instead of ppo" in error
    assert "either --resume or --overwrite" in mistake(*resume, "--overwrite")
    assert "holds no training to resume: training.json" in mistake(
        "train", "--resume", "--out", tmp_path / "no"
    )
    assert "ppo, 2560 steps" in output(*resume, "--steps", "2000", "--rounds", "4")
    held = TrainingConfig.read(tmp_path / "training.json")
    assert (held.steps, held.steps_done) == (2000, 2560)
    held = replace(held, imports=["my_attacks"])
    (tmp_path / "training.json").write_text(held.text())
    assert f"`byzgym --import my_attacks train --out {tmp_path} --resume` goes on" in mistake(*resume)
    (tmp_path / "training.json").write_text("{}")
    assert "is not the training.json of a training" in mistake(*resume)


def test_an_interrupted_training_says_how_to_go_on(tmp_path, capsys, output, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Training, "between_rollouts", interrupted)
    assert main([*TRAIN, str(tmp_path / "my agent")]) == 130
    go_on = f"byzgym train --out '{tmp_path / 'my agent'}' --resume"
    assert f"byzgym: interrupted; 0 steps are saved, and `{go_on}` goes on" in capsys.readouterr().err
    monkeypatch.undo()
    output(*shlex.split(go_on)[1:])


def test_a_training_that_chooses_rules(tmp_path, output):
    output(*TRAIN, tmp_path, "--action", "rule", "--rules", "mean", "median")
    assert "return: " in output(
        "evaluate", *SETTING, "--episodes", "1", "--policy", f"model:{tmp_path}/model.zip"
    )


def test_without_tensorboard_it_is_said_once(tmp_path, output, monkeypatch):
    monkeypatch.setattr(training, "has_tensorboard", lambda: False)
    assert output(*TRAIN, tmp_path).count("TensorBoard") == 1


def test_nothing_is_trained_in_vain(tmp_path, mistake, monkeypatch):
    monkeypatch.setattr(training.Training, "run", lambda *_: pytest.fail("trained"))
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "out must be a folder that can be written to, got" in mistake(*TRAIN, out)
    with files.lock(tmp_path / "out"):
        assert "is writing to" in mistake(*TRAIN, tmp_path / "out")


def test_a_model_that_cannot_be_saved(tmp_path, mistake, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stable_baselines3.PPO.save", full)
    assert f"cannot write {tmp_path}/checkpoints/0.zip: No space left on device" in mistake(*TRAIN, tmp_path)
    assert not (tmp_path / "model.zip").exists()
