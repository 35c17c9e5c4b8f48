"""Models: where `byzgym train` saves them, and how `byzgym evaluate` plays them."""

import numpy as np
import pytest
import stable_baselines3
from gymnasium import ActionWrapper, spaces

from byzgym.cli import main
from byzgym.experiments import training
from byzgym.experiments.evaluate import make_environment

pytestmark = pytest.mark.global_rng
SETTING = {"task": "synthetic", "rounds": 4, "num_byzantine": 7, "attack": ["ipm"], "observation": ["norms"]}
TRAIN = ["train", "--task", "synthetic", "--rounds", "4", "--steps", "8", "--num-envs", "4", "--out"]
PLAY = ["evaluate", "--task", "synthetic", "--rounds", "4", "--attack", "ipm", "--observation", "norms"]
PLAY += ["--episodes", "1", "--model-path"]


def one_line(capsys):
    captured = capsys.readouterr().err
    assert len(captured.splitlines()) == 1
    return captured


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Untrained models of all algorithms, whose actions are logits."""
    folder = tmp_path_factory.mktemp("models")
    for algorithm in ("ppo", "a2c", "sac", "td3"):
        training.make(algorithm, 2, 0, SETTING).save(folder / algorithm)
    return folder


class Choice(ActionWrapper):
    """Two actions: all credit on worker 0 or on worker 1."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = spaces.Discrete(2)

    def action(self, action):
        return np.eye(10, dtype=np.float32)[action]


@pytest.mark.parametrize("beta", [None, 2.0, 10.0])
def test_beta_of_the_softmax(models, beta):
    env = make_environment(SETTING)
    _, wrapped = training.load(models / "ppo.zip", "ppo", env, beta)
    assert wrapped.beta == (training.BETA if beta is None else beta)


def test_beta_on_the_command_line(models, capsys):
    play, shown = [*PLAY, str(models / "ppo.zip")], {}
    for beta in ([], ["--softmax-beta", "10"], ["--softmax-beta", "0.5"]):
        assert main([*play, *beta]) == 0
        shown[tuple(beta)] = capsys.readouterr().out
    assert shown[()] == shown["--softmax-beta", "10"] != shown["--softmax-beta", "0.5"]


@pytest.mark.parametrize("beta", ["0", "-1", "nan", "inf"])
def test_beta_is_a_positive_number(models, beta, capsys):
    assert main([*PLAY, str(models / "ppo.zip"), "--softmax-beta", beta]) == 2
    assert f"softmax_beta must be a finite number greater than 0, got {float(beta)}" in one_line(capsys)


def test_beta_is_for_logits(tmp_path, capsys):
    assert main(["evaluate", "--softmax-beta", "5"]) == 2
    assert "--softmax-beta 5.0 is for the model of --model-path, which is missing" in one_line(capsys)
    path = tmp_path / "credits.zip"
    stable_baselines3.PPO("MultiInputPolicy", make_environment(SETTING), n_steps=2, batch_size=2).save(path)
    assert main([*PLAY, str(path), "--softmax-beta", "5"]) == 2
    assert "softmax_beta is for a model whose actions are logits, got 5.0" in one_line(capsys)
    assert main([*PLAY, str(path)]) == 0


def test_a_model_that_chooses_is_refused(tmp_path, capsys):
    path = tmp_path / "choice.zip"
    stable_baselines3.PPO(
        "MultiInputPolicy", Choice(make_environment(SETTING)), n_steps=2, batch_size=2
    ).save(path)
    assert main([*PLAY, str(path)]) == 2
    assert "was trained with the action_space Discrete(2), but the environment has Box" in one_line(capsys)


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "sac", "td3"])
@pytest.mark.parametrize("saved_by", ["ppo", "a2c", "sac", "td3"])
def test_a_model_of_another_algorithm_is_refused(models, saved_by, algorithm):
    path, env = models / f"{saved_by}.zip", make_environment(SETTING)
    if saved_by == algorithm:
        assert training.load(path, algorithm, env)
        return
    with pytest.raises(
        ValueError, match=f"is not a model that {algorithm} has saved: it is one of {saved_by}"
    ):
        training.load(path, algorithm, env)


def test_what_is_no_model_is_refused(tmp_path, capsys):
    (tmp_path / "model.zip").write_text("no archive")
    assert main([*PLAY, str(tmp_path / "model.zip")]) == 2
    assert "is not a model that ppo has saved" in one_line(capsys)


@pytest.fixture
def _untrained(monkeypatch):
    monkeypatch.setattr(training, "learn", lambda *_: pytest.fail("trained"))


@pytest.mark.usefixtures("_untrained")
def test_where_a_model_cannot_be_saved_nothing_is_trained(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*TRAIN, str(tmp_path / "file")]) == 2
    assert f"out must be a folder, but {tmp_path / 'file'} is a file" in one_line(capsys)
    assert main([*TRAIN, str(tmp_path / "file" / "below")]) == 2
    assert "out must be a folder that can be written to, got" in one_line(capsys)
    (tmp_path / "model.zip").mkdir()
    for overwrite in ([], ["--overwrite"]):
        assert main([*TRAIN, str(tmp_path), *overwrite]) == 2
        assert "model.zip is a folder, where a file is to be written" in one_line(capsys)


@pytest.mark.usefixtures("_untrained")
def test_a_folder_is_tried_before_training(tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("byzgym.experiments.files.TemporaryFile", refuse)
    assert main([*TRAIN, str(tmp_path / "out")]) == 2
    message = f"out must be a folder that can be written to, got {tmp_path / 'out'}: Permission denied"
    assert message in one_line(capsys)


def test_a_model_that_cannot_be_saved_is_one_line(tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stable_baselines3.PPO.save", full)
    monkeypatch.setattr(training, "learn", lambda *_: None)
    assert main([*TRAIN, str(tmp_path)]) == 2
    assert "No space left on device" in one_line(capsys)


@pytest.mark.parametrize("seed", ["-1", "4294967296", "99999999999"])
def test_seeds_of_learners(tmp_path, seed, capsys):
    assert main([*TRAIN, str(tmp_path / "out"), "--seed", seed]) == 2
    assert f"seed must be an integer from 0 to 4294967295, got {seed}" in one_line(capsys)
    assert not list(tmp_path.iterdir())
