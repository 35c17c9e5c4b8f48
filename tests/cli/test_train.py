import shlex
import sys
from dataclasses import replace

import pytest

from byzgym import files, tracking
from byzgym.cli import main
from byzgym.experiments.results import Results
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
    evaluations = "evaluations are means of 2 episodes, the same for all policies"
    assert lines[-4] == f"training ppo in {tmp_path}, 256 steps; {evaluations}"
    assert lines[-3].startswith("uniform                  return")
    assert lines[-2].startswith("ppo, 1280 steps          return")
    options = "--task synthetic --qv-size 20 --rounds 4 --reward held_out"
    command = f"byzgym evaluate --model-path {path} {options}"
    assert lines[-1] == f"{path}; `{command}` plays it"
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
    (tmp_path / "training.json").write_text('{"lr": 0.1}')
    text = output(*play)
    assert "training.json is of another program" in " ".join(text.split())
    scores = text.split(" seed ")[1]
    for same in (["--algorithm", "ppo"], ["--softmax-beta", "10"]):
        assert output(*play, *same).split(" seed ")[1] == scores
    assert output(*play, "--softmax-beta", "0.5").split(" seed ")[1] != scores


def test_a_training_goes_on(tmp_path, output, mistake):
    output(*TRAIN, tmp_path)
    resume = ["train", "--out", tmp_path, "--resume"]
    assert "has 1280 steps; say with --steps" in mistake(*resume)
    (tmp_path / "model.zip").unlink()
    assert "from step 1280 to 256" in output(*resume)
    assert (tmp_path / "model.zip").exists()
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
    assert "training.json is not of byzgym train" in mistake(*resume)
    (tmp_path / "training.json").write_text(
        replace(held, imports=[]).text().replace('"steps": 2000', '"steps": "x"')
    )
    assert "training.json: steps must be an integer of at least 1, got 'x'" in mistake(*resume)


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


def test_a_training_and_a_comparison_leave_each_other_alone(tmp_path, output):
    compare = [
        "compare",
        *SETTING,
        "--policies",
        "mean",
        "--attacks",
        "ipm",
        "--seeds",
        "1",
        "--out",
        tmp_path,
    ]
    output(*TRAIN, tmp_path)
    output(*compare)
    for again in ([*TRAIN, tmp_path], compare):
        output(*again, "--overwrite")
        assert TrainingConfig.read(tmp_path / "training.json").algorithm == "ppo"
        assert list(Results.read(tmp_path).comparison.policies) == ["mean"]
        assert (tmp_path / "model.zip").exists()


@pytest.mark.parametrize("name", ["checkpoints/7.zip", "tensorboard/events.out.tfevents.1"])
def test_what_other_trainings_have_left_stays(tmp_path, mistake, name):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("mine")
    assert f"already holds {name.split('/')[0]}; choose" in mistake(*TRAIN, tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_a_damaged_checkpoint_is_named(tmp_path, output, mistake):
    output(*TRAIN, tmp_path)
    last = tmp_path / "checkpoints" / "1280.zip"
    last.write_bytes(last.read_bytes()[:500])
    text = " ".join(output("train", "--out", tmp_path, "--resume", "--steps", "1400").split())
    assert "1280.zip is not a checkpoint of ppo that can be read" in text
    assert "; the one before it is taken" in text
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_text("")
    assert "--overwrite begins anew" in mistake("train", "--out", tmp_path, "--resume", "--steps", "9999")


class Recorder(list):
    def __getattr__(self, name):
        return lambda *arguments: self.append((name, *arguments))


def test_a_training_is_tracked(tmp_path, output, monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(tracking.KINDS, "wandb", lambda folder: recorder)
    output(*TRAIN, tmp_path / "mine", "--track", "wandb")
    assert recorder[0][:2] == ("start", "mine")
    assert {call[0] for call in recorder[1:-1]} == {"log"}
    assert recorder[-1][0] == "finish"
    assert "final/return" in recorder[-1][1]


def test_a_missing_tracker_leaves_no_folder(tmp_path, mistake, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    out = tmp_path / "mine"
    assert "pip install 'byzgym[mlflow]'" in mistake(*TRAIN, out, "--track", "mlflow")
    assert not out.exists()


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
