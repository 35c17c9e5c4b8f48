"""A training in a folder: what it writes, and that it goes on as if it had not been interrupted."""

import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from byzgym.integrations.sb3 import checkpoints, evaluation, learners, training
from byzgym.integrations.sb3.config import NAME, TrainingConfig
from byzgym.integrations.sb3.training import Training

pytestmark = pytest.mark.global_rng
PARTS = ["norms", "reputation"]  # a running mean, so that a checkpoint needs the memory
SETTING = {"task": "synthetic", "rounds": 5, "attack": ["ipm", "gaussian"], "observation": PARTS}
SMALL = {"num_envs": 4, "evaluate_every": 20, "evaluation_episodes": 2}


def config(algorithm="ppo", steps=80, **others):
    if algorithm in ("recurrent_ppo", "tqc"):
        pytest.importorskip("sb3_contrib")
    settings = learners.settings(algorithm, 4, SETTING)
    small = {"n_steps": 4} if "n_steps" in settings else {"buffer_size": 100, "learning_starts": 20}
    settings = {**settings, "batch_size": 8, **small}
    if algorithm == "a2c":
        settings = {**settings, "n_steps": 4}
        del settings["batch_size"], settings["buffer_size"], settings["learning_starts"]
    beta = learners.softmax_beta(SETTING)
    given = {"environment": SETTING, "settings": settings, "softmax_beta": beta, "steps": steps}
    return TrainingConfig(algorithm=algorithm, **{**SMALL, **given, **others})


@pytest.fixture(autouse=True)
def _few_controls(monkeypatch):
    monkeypatch.setattr(evaluation, "CONTROLS", ("uniform",))


def tensors(value):
    """All tensors in nested dictionaries."""
    if isinstance(value, dict):
        return [tensor for entry in value.values() for tensor in tensors(entry)]
    return [value] if isinstance(value, torch.Tensor) else []


def assert_same_model(path, other):
    found, expected = (tensors(learners.read(each).get_parameters()) for each in (path, other))
    assert len(found) == len(expected) > 10
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


def folder_of(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    return folder


def run(folder, config, resume=False, stop_after=None):
    """Run a training; with ``stop_after`` it is asked to stop after so many steps."""
    made = Training(folder, config, resume)
    if stop_after is None:
        made.run()
        return made
    done = made.steps_done

    def on_steps(steps, mean_return):
        nonlocal done
        done += steps
        if done - steps < stop_after <= done:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        made.run(on_steps)
    return made


def test_what_a_training_leaves(tmp_path):
    rows = []
    made = Training(tmp_path, config())
    made.run(on_evaluation=rows.append)
    names = {"model.zip", "best_model.zip", "training.json", "evaluations.csv", "checkpoints"}
    assert names <= {path.name for path in tmp_path.iterdir()} <= names | {"tensorboard"}
    assert [(row["policy"], row["steps"]) for row in rows] == [
        ("uniform", 0), ("ppo", 32), ("ppo", 48), ("ppo", 64), ("ppo", 80),
    ]  # fmt: skip
    assert (tmp_path / "evaluations.csv").read_text().splitlines()[0] == ",".join(training.COLUMNS)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["64.zip", "80.zip"]
    held = TrainingConfig.read(tmp_path / NAME)
    assert (held.steps_done, held.steps, held.environment) == (80, 80, SETTING)
    assert learners.read(tmp_path / "checkpoints" / "80.zip").num_timesteps == 80
    assert_same_model(tmp_path / "checkpoints" / "80.zip", tmp_path / "model.zip")


def test_the_best_model_has_the_highest_return(tmp_path, monkeypatch):
    returns = iter([0.0, 1.0, 3.0, 2.0, 2.5])
    scores = dict.fromkeys(("return_std", "accuracy_std", "diverged"), 0.0)
    monkeypatch.setattr(
        evaluation, "play", lambda env, *_: {"return": (r := next(returns)), "accuracy": -r, **scores}
    )
    Training(tmp_path, config()).run()
    assert learners.read(tmp_path / "best_model.zip").num_timesteps == 48
    assert learners.read(tmp_path / "model.zip").num_timesteps == 80


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "recurrent_ppo", "sac", "td3", "tqc"])
def test_an_interrupted_training_ends_as_another(tmp_path, algorithm):
    whole, parts = folder_of(tmp_path, "whole"), folder_of(tmp_path, "parts")
    run(whole, config(algorithm))
    stopped = run(parts, config(algorithm), stop_after=36)
    assert 36 <= stopped.config.steps_done < 60
    assert not (parts / "model.zip").exists()
    run(parts, TrainingConfig.read(parts / NAME), resume=True)
    for name in ("model.zip", "best_model.zip"):
        assert_same_model(parts / name, whole / name)
    assert (parts / "evaluations.csv").read_text() == (whole / "evaluations.csv").read_text()


def test_what_came_after_the_checkpoint_is_forgotten(tmp_path):
    """As after SIGKILL between an evaluation and its checkpoint."""
    run(tmp_path, config())
    (tmp_path / "checkpoints" / "80.zip").unlink()
    expected = (tmp_path / "evaluations.csv").read_text()
    resumed = Training(tmp_path, config(), resume=True)
    assert (resumed.steps_done, resumed.rows[-1]["steps"]) == (64, 64)
    resumed.run()
    assert (tmp_path / "evaluations.csv").read_text() == expected


def test_more_steps_after_a_normal_end(tmp_path):
    run(tmp_path, config())
    made = Training(tmp_path, config(steps=112), resume=True)
    rates = []
    made.run(lambda steps, _: rates.append(made.model.policy.optimizer.param_groups[0]["lr"]))
    assert made.steps_done == 112
    assert rates[0] == pytest.approx(0.0)  # of the update before the end at 80 steps
    assert rates[4] == pytest.approx(1e-3 * (1 - 96 / 112))


def test_another_training_takes_the_folder(tmp_path):
    run(tmp_path, config())
    (tmp_path / "mine.txt").write_text("")
    run(tmp_path, config(steps=16))
    assert {path.stem for path in (tmp_path / "checkpoints").iterdir()} == {"0", "16"}
    assert (tmp_path / "mine.txt").exists()
    assert "80" not in (tmp_path / "evaluations.csv").read_text()


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["heard", "ignored"])
def handler(request):
    """What SIGINT does before a training: it is ignored where a script has started this in the background."""
    before = signal.signal(signal.SIGINT, request.param)
    yield request.param
    signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_does_not_wait(tmp_path, handler):
    told = []

    def on_steps(steps, mean_return):
        signal.raise_signal(signal.SIGINT)
        told.append("after the first")
        signal.raise_signal(signal.SIGINT)
        told.append("after the second")

    made = Training(tmp_path, config())
    with pytest.raises(KeyboardInterrupt):
        made.run(on_steps, on_interrupt=lambda: told.append("asked"))
    assert told == ["asked", "after the first"]
    assert made.config.steps_done == 0
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_control_does_not_play_on_after_an_interrupt(tmp_path, monkeypatch):
    rounds = []

    def play(env, predict, each_round):
        for number in range(3):
            each_round()
            rounds.append(number)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(evaluation, "play", play)
    made = Training(tmp_path, config())
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert rounds == [0]


def test_controls_do_not_play_again(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    made = Training(tmp_path, config())
    monkeypatch.setattr(made, "between_rollouts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    monkeypatch.setattr(evaluation, "play_control", lambda *_: pytest.fail("played"))
    resumed = run(tmp_path, TrainingConfig.read(tmp_path / NAME), resume=True)
    assert [row["policy"] for row in resumed.rows].count("uniform") == 1


def damage(path):
    path.write_bytes(path.read_bytes()[:1000])


def test_a_damaged_checkpoint(tmp_path):
    """It goes on from the one before, and ends as if nothing had happened."""
    whole, parts = folder_of(tmp_path, "whole"), folder_of(tmp_path, "parts")
    run(whole, config())
    shutil.copytree(whole, parts, dirs_exist_ok=True)
    damage(parts / "checkpoints" / "80.zip")
    (parts / "model.zip").unlink()
    resumed = run(parts, config(), resume=True)
    (problem,) = resumed.problems
    assert f"{parts}/checkpoints/80.zip is not a checkpoint of ppo that can be read" in problem
    for name in ("model.zip", "checkpoints/80.zip"):
        assert_same_model(parts / name, whole / "model.zip")
    assert (parts / "evaluations.csv").read_text() == (whole / "evaluations.csv").read_text()


def test_a_damaged_checkpoint_does_not_push_out_the_good_ones(tmp_path):
    run(tmp_path, config(steps=64))
    damage(tmp_path / "checkpoints" / "64.zip")
    resumed = Training(tmp_path, config(), resume=True)
    resumed._save()
    assert [path.name for path in checkpoints.found(tmp_path / "checkpoints")] == ["48.zip"]


def test_only_damaged_checkpoints(tmp_path):
    run(tmp_path, config(steps=16))
    for name in ("0.zip", "16.zip"):
        damage(tmp_path / "checkpoints" / name)
    with pytest.raises(
        ValueError, match=r"16\.zip is not a check.*; .*0\.zip is not .*--overwrite begins anew"
    ):
        Training(tmp_path, config(), resume=True)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_checkpoint_that_may_not_be_read_is_no_damaged_one(tmp_path, monkeypatch):
    run(tmp_path, config(steps=16))

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("stable_baselines3.PPO.load", forbidden)
    with pytest.raises(PermissionError):
        Training(tmp_path, config(), resume=True)


def test_a_model_that_was_deleted(tmp_path):
    run(tmp_path, config(steps=16))
    before = (tmp_path / "evaluations.csv").read_text()
    (tmp_path / "model.zip").unlink()
    run(tmp_path, TrainingConfig.read(tmp_path / NAME), resume=True)
    assert_same_model(tmp_path / "model.zip", tmp_path / "checkpoints" / "16.zip")
    assert (tmp_path / "evaluations.csv").read_text() == before


def test_a_training_that_has_saved_all_its_steps_has_a_model(tmp_path, monkeypatch):
    """As after a kill at the end: the model is written before the last checkpoint."""
    save = checkpoints.save

    def killed(model, path):
        if path.name == "16.zip":
            raise KeyboardInterrupt
        save(model, path)

    monkeypatch.setattr(checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        Training(tmp_path, config(steps=16)).run()
    assert TrainingConfig.read(tmp_path / NAME).steps_done == 0
    assert (tmp_path / "model.zip").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environment": {**SETTING, "rounds": 0}}, "rounds must be an integer of at least 1, got 0"),
        ({"settings": {}}, "settings must name a policy"),
        (
            {"settings": {"policy": "EquivariantPolicy", "learning_rate": "fast"}},
            "learning_rate must be .*'fast'",
        ),
        (
            {"settings": {"policy": "EquivariantPolicy", "policy_kwargs": 3}},
            "policy_kwargs must be a mapping, got 3",
        ),
        ({"settings": {"policy": "EquivariantPolicy", "speed": 3}}, "speed"),
        ({"settings": {"policy": "EquivariantPolicy", "batch_size": 1}}, "batch_size"),
        ({"algorithm": "ppq"}, "algorithm must be one of .*, got 'ppq'"),
    ],
)
def test_a_file_that_says_what_is_not_allowed(tmp_path, changes, message):
    given = dataclasses.replace(config(), **changes)
    with pytest.raises((ValueError, TypeError), match=rf"training\.json: .*{message}"):
        Training(tmp_path, given, resume=True)


def test_a_training_without_its_checkpoints_cannot_go_on_and_keeps_its_model(tmp_path):
    run(tmp_path, config(steps=16))
    shutil.rmtree(tmp_path / "checkpoints")
    held = TrainingConfig.read(tmp_path / NAME)
    with pytest.raises(ValueError, match="holds no checkpoint of the 16 steps that were done"):
        Training(tmp_path, dataclasses.replace(held, steps=32), resume=True)
    assert (tmp_path / "model.zip").exists()


def test_a_checkpoint_is_written_whole(tmp_path, monkeypatch):
    run(tmp_path, config(steps=16))
    before = (tmp_path / "checkpoints" / "16.zip").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ZipFile, "open", full)
    made = learners.make(config())
    made._last_obs = made.env.reset()
    with pytest.raises(OSError, match=r"cannot write .*16\.zip: No space left on device"):
        checkpoints.save(made, tmp_path / "checkpoints" / "16.zip")
    assert (tmp_path / "checkpoints" / "16.zip").read_bytes() == before
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_episodes_are_reported(tmp_path):
    returns = []
    Training(tmp_path, config()).run(lambda steps, mean_return: returns.append(mean_return))
    assert returns[0] is None
    assert np.isfinite(returns[-1])


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "has_tensorboard", lambda: False)
    run(tmp_path, config(steps=16))
    assert not (tmp_path / "tensorboard").exists()


def test_logs_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, config())
    logs = EventAccumulator(str(tmp_path / "tensorboard"))
    logs.Reload()
    assert {"rollout/ep_rew_mean", "train/loss", "evaluation/return", "evaluation/accuracy"} <= set(
        logs.Tags()["scalars"]
    )


class Recorder:
    def __init__(self):
        self.started, self.logged, self.finished = [], {}, []

    def start(self, name, configuration):
        self.started.append((name, configuration))

    def log(self, step, metrics):
        self.logged.setdefault(step, {}).update(metrics)

    def finish(self, summary):
        self.finished.append(summary)


def test_trackers_get_what_a_learner_logs(tmp_path):
    tracker = Recorder()
    trained = Training(tmp_path / "mine", config())
    (tmp_path / "mine").mkdir(exist_ok=True)
    trained.run(trackers=[tracker])
    ((name, configuration),) = tracker.started
    assert name == "mine"
    assert configuration["algorithm"] == trained.config.algorithm
    names = set().union(*tracker.logged.values())
    assert {"rollout/ep_rew_mean", "train/loss", "evaluation/return", "evaluation/accuracy"} <= names
    (summary,) = tracker.finished
    last = trained.rows[-1]
    assert summary["final/return"] == last["return"]
    assert tracker.logged[last["steps"]]["evaluation/return"] == last["return"]
    assert all(isinstance(value, float) for metrics in tracker.logged.values() for value in metrics.values())


def train_command(folder, *words):
    return [sys.executable, "-m", "byzgym", "train", "--out", str(folder), *words]


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_ended(tmp_path, ending):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = ["--task", "synthetic", "--rounds", "5", "--num-envs", "16", "--steps", "5120"]
    words += ["--evaluate-every", "1280", "--evaluation-episodes", "2"]
    subprocess.run(train_command(whole, *words), check=True, capture_output=True)
    process = subprocess.Popen(train_command(parts, *words), stderr=subprocess.PIPE, text=True)
    while not (parts / "checkpoints" / "1280.zip").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(ending)
    error = process.communicate()[1]
    assert process.returncode == (130 if ending == signal.SIGINT else -signal.SIGKILL)
    assert not (parts / "model.zip").exists()
    if ending == signal.SIGINT:
        assert f"steps are saved, and `byzgym train --out {parts} --resume` goes on" in error
    subprocess.run(train_command(parts, "--resume"), check=True, capture_output=True)
    assert_same_model(parts / "model.zip", whole / "model.zip")
    assert (parts / "evaluations.csv").read_text() == (whole / "evaluations.csv").read_text()
