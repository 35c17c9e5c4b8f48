import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from byzgym import aggregation, attacks, tasks
from byzgym.experiments import Comparison, play
from byzgym.experiments.engine import Here, Processes
from byzgym.experiments.store import Store
from byzgym.experiments.tuning import NAME, Parameter, Trial, Tuning, best, discard

KILLED = Path(__file__).with_name("killing_tuning.py")


@pytest.mark.parametrize(
    ("text", "corners"),
    [
        ("window=1:20", [1, 20]),
        ("rate=0.5:1:log", [0.5, 1]),
        ("rate = -1.5 : 1e3", [-1.5, 1000.0]),
        ("after_rise=start,end", ["start", "end"]),
        ("hidden=[16],[32, 32],[]", [[16], [32, 32], []]),
        ("start=None,krum", [None, "krum"]),
        ("start=nnm+krum,trust", ["nnm+krum", "trust"]),
        ("size=16,32", [16, 32]),
    ],
)
def test_a_search_is_read(text, corners):
    parameter = Parameter.read(text)
    assert parameter.corners == corners
    assert parameter.name == text.partition("=")[0].strip()
    assert parameter.log == text.endswith("log")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "window",
            "window=",
            "=1:2",
            "window=3",
            "window=2:1",
            "window=1:1",
            "x=0:1:log",
            "x=1:2:lin",
            "x=a:b",
        ),
        *("x=a,a", "x=1e999:1", "x=1:1e999", "x=True:3", "x=1:2:log:3", "x=1.0,1.0"),
    ],
)
def test_another_text_is_refused(text):
    with pytest.raises(ValueError, match=r"search must be name=low:high, .* got '"):
        Parameter.read(text)


def tuning(folder, policy="gaa", search=("window=1:3", "after_rise=start,end"), seed=0, **changes):
    pytest.importorskip("optuna", reason="optuna is not installed: pip install byzgym[tune]")
    given = {"task": "synthetic", "rounds": 4, "seeds": 2, "first_seed": 50, "attacks": ("ipm", "zero")}
    comparison = Comparison(**{**given, "policies": policy, **changes})
    return Tuning(comparison, [Parameter.read(text) for text in search], folder, seed)


def test_the_control_is_played_first(tmp_path):
    one = tuning(tmp_path)
    one.play(3, Here())
    trials = one.trials()
    assert trials[0].policy == "gaa"
    assert all(trial.policy.startswith("gaa:window=") for trial in trials[1:])
    assert len(trials) == 3


def test_the_score_is_the_mean_over_seeds_under_the_worst_attack(tmp_path):
    one = tuning(tmp_path, "mean", ["num_byzantine=0:1"], attacks=("sign_flip", "zero"), num_byzantine=(3, 7))
    one.play(1, Here())
    (trial,) = one.trials()
    with Store(tmp_path) as store:
        runs = store.table()
    assert len(runs) == 2 * 2 * 2
    assert set(runs["task"]) == {"validation:synthetic"}
    runs.loc[runs["diverged"] == 1, "accuracy"] = 1 / 3
    means = runs.groupby(["attack", "num_byzantine"])["accuracy"].mean()
    assert trial.accuracy == pytest.approx(means.min())
    assert means[trial.attack, trial.num_byzantine] == pytest.approx(means.min())


def test_a_run_that_diverged_counts_as_chance(tmp_path):
    aggregation.register("test_exploding", lambda size=1.0: lambda rows: rows.mean(-2) * -1e30)
    one = tuning(tmp_path, "test_exploding", ["size=0.0:1.0"])
    one.play(1, Here())
    (trial,) = one.trials()
    assert trial.diverged == 4
    assert trial.accuracy == pytest.approx(1 / 3)


def blobs(test_labels):
    """Two blobs; of the test set only the labels can be chosen."""
    generator = np.random.default_rng(0)
    y = np.arange(120) % 2
    x = generator.normal(size=(120, 4)) + 3 * y[:, None]
    return tasks.Task(train=(x, y), test=(x[:20], test_labels), num_classes=2, model="softmax")


def test_test_labels_change_nothing(tmp_path):
    """Whatever the test set says, the same parameters are chosen, with the same scores."""
    found = []
    for number, labels in enumerate((np.arange(20) % 2, 1 - np.arange(20) % 2)):
        tasks.register("test_blobs", lambda labels=labels: blobs(labels))
        one = tuning(tmp_path / str(number), task="test_blobs")
        one.play(4, Here())
        found.append(one.trials())
    assert found[0] == found[1]


def test_test_labels_would_be_seen_if_they_had_a_part(tmp_path):
    """The counterpart: in the task itself the two test sets give other accuracies."""
    found = []
    for labels in (np.arange(20) % 2, 1 - np.arange(20) % 2):
        tasks.register("test_blobs", lambda labels=labels: blobs(labels))
        comparison = Comparison(task="test_blobs", policies="oracle", rounds=5, attacks="ipm", seeds=1)
        found.append(play.play_batch(comparison, "oracle", 3).runs[0]["accuracy"])
    assert found[0] == pytest.approx(1 - found[1])
    assert found[0] != found[1]


def test_one_seed_reproduces_the_choice(tmp_path):
    found = []
    for number, seed in enumerate((0, 0, 1)):
        one = tuning(tmp_path / str(number), search=["learning_rate=0.001:1:log"], seed=seed)
        one.play(4, Here())
        found.append(one.trials())
    assert found[0] == found[1]
    assert found[0][0] == found[2][0]
    assert found[0][1:] != found[2][1:]


def test_finished_trials_are_not_played_again(tmp_path, monkeypatch):
    tuning(tmp_path).play(3, Here())
    before = tuning(tmp_path).trials()
    with monkeypatch.context() as patch:
        patch.setattr(play, "play_batch", None)
        tuning(tmp_path).play(3, Here())
    tuning(tmp_path).play(4, Here())
    assert tuning(tmp_path).trials()[:3] == before
    assert len(tuning(tmp_path).trials()) == 4


def test_another_search_in_the_folder_has_its_own_trials(tmp_path):
    tuning(tmp_path).play(2, Here())
    for changes in ({"seed": 1}, {"rounds": 5}, {"search": ["window=1:4"]}, {"first_seed": 60}):
        assert tuning(tmp_path, **changes).trials() == []
    assert len(tuning(tmp_path).trials()) == 2


def test_an_interrupted_tuning_ends_with_the_same_trials(tmp_path, monkeypatch):
    tuning(tmp_path / "whole").play(5, Here())
    play_batch, played = play.play_batch, []

    def interrupted(comparison, policy, f, progress, members):
        played.append((policy, members))
        if len(played) in (2, 6, 9):
            raise KeyboardInterrupt
        return play_batch(comparison, policy, f, progress, members)

    monkeypatch.setattr(play, "play_batch", interrupted)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            tuning(tmp_path / "parts").play(5, Here())
    tuning(tmp_path / "parts").play(5, Here())
    assert tuning(tmp_path / "parts").trials() == tuning(tmp_path / "whole").trials()
    done = [one for number, one in enumerate(played, 1) if number not in (2, 6, 9)]
    assert len(set(done)) == len(done)  # nothing finished has been played again


def test_arguments_of_the_run_can_be_searched(tmp_path):
    one = tuning(tmp_path, "krum", ["run.learning_rate=0.01:1:log", "run.batch_size=4,8"])
    one.play(3, Here())
    control, *others = one.trials()
    assert control.run == {}
    for trial in others:
        assert trial.policy == "krum"
        assert 0.01 <= trial.run["learning_rate"] <= 1
        assert trial.run["batch_size"] in (4, 8)
    with Store(tmp_path) as store:
        assert store.table()["setting"].nunique() == 3


def test_rules_behind_pre_aggregators_can_be_tuned(tmp_path):
    one = tuning(tmp_path, "nnm+centered_clipping", ["radius=0.1:2.0"])
    one.play(2, Here())
    assert one.trials()[1].policy.startswith("nnm+centered_clipping:radius=")


def test_values_that_do_not_go_together_cost_one_trial(tmp_path):
    def factory(a=1, b=1):
        if a + b == 4:
            raise ValueError("a and b are too large together")
        return lambda rows: rows.mean(-2)

    aggregation.register("test_picky", factory)
    one = tuning(tmp_path, "test_picky", ["a=1:2", "b=1:2"])
    one.check()
    one.play(12, Here())
    trials = one.trials()
    errors = {trial.error for trial in trials}
    assert errors == {"", "a and b are too large together"}
    assert {trial.policy for trial in trials if trial.error} == {"test_picky:a=2,b=2"}
    assert all(math.isnan(trial.accuracy) for trial in trials if trial.error)
    assert not any(trial.error for trial in best(trials))


def test_a_failing_run_fails_its_trial(tmp_path):
    class Late(attacks.SignFlip):
        def __call__(self, gradients, byzantine, context):
            if int(np.max(np.asarray(context.round))) == 2:
                raise ArithmeticError("too late")
            return super().__call__(gradients, byzantine, context)

    attacks.register("test_late", Late)
    one = tuning(tmp_path, attacks=("ipm", "test_late"))
    one.play(1, Here())
    assert "ArithmeticError: too late" in one.trials()[0].error


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ([], "search must name at least one parameter"),
        (["window=1:3", "window=1:4"], "search must not repeat window"),
        (["run.round=1:3"], "unknown argument of the run 'round'"),
        (["run.task=digits,mnist"], "unknown argument of the run 'task'"),
        (["run.roles=static,rotating"], "unknown argument of the run 'roles'"),
    ],
)
def test_what_cannot_be_searched_is_refused(tmp_path, search, message):
    with pytest.raises(ValueError, match=message):
        tuning(tmp_path, search=search)


def test_references_are_not_tuned(tmp_path):
    with pytest.raises(ValueError, match="policy must not be a reference, got oracle"):
        tuning(tmp_path, "oracle", search=["run.batch_size=4:8"]).check()


def test_fixed_parameters_are_not_searched(tmp_path):
    with pytest.raises(ValueError, match="search must not name window, which gaa:window=2 fixes"):
        tuning(tmp_path, "gaa:window=2")


@pytest.mark.parametrize(
    ("search", "kind", "message"),
    [
        ("windows=1:3", TypeError, "windows"),
        ("window=0:3", ValueError, "search window=0: window must be an integer of at least 1, got 0"),
        ("after_rise=start,middle", ValueError, "search after_rise=middle: after_rise must be one of"),
    ],
)
def test_mistakes_are_found_before_anything_is_played(tmp_path, search, kind, message):
    with pytest.raises(kind, match=message):
        tuning(tmp_path, search=[search]).check()
    assert list(tmp_path.iterdir()) == []


def test_of_equals_the_earliest_is_best():
    trials = [Trial("a", {}, 0.5), Trial("b", {}, 0.7), Trial("c", {}, 0.7), Trial("d", {}, error="no")]
    assert [trial.policy for trial in best(trials)] == ["b", "c", "a"]


def test_discarding(tmp_path):
    tuning(tmp_path).play(1, Here())
    (tmp_path / "mine.txt").touch()
    discard(tmp_path)
    assert not (tmp_path / NAME).exists()
    assert (tmp_path / "mine.txt").exists()
    assert tuning(tmp_path).trials() == []
    with Store(tmp_path) as store:
        assert len(store) == 0


@pytest.mark.parametrize("name", ["a b?c#d%20", "ä=1&uri=true"])
def test_folders_may_have_any_name(tmp_path, name):
    tuning(tmp_path / name).play(1, Here())
    assert (tmp_path / name / NAME).is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_without_optuna(tmp_path, monkeypatch):
    one = tuning(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"tuning needs optuna: pip install 'byzgym\[tune\]'"):
        one.check()


@pytest.mark.slow
def test_processes_change_nothing(tmp_path):
    tuning(tmp_path / "here").play(3, Here())
    tuning(tmp_path / "processes").play(3, Processes(2))
    assert tuning(tmp_path / "here").trials() == tuning(tmp_path / "processes").trials()


@pytest.mark.slow
def test_a_tuning_that_is_killed_goes_on(tmp_path):
    pytest.importorskip("optuna", reason="optuna is not installed: pip install byzgym[tune]")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def start(folder):
        return subprocess.Popen([sys.executable, KILLED, folder], env=environment, stdout=subprocess.PIPE)

    whole, _ = start(tmp_path / "whole").communicate()
    generator = np.random.default_rng(0)
    for _ in range(3):
        process = start(tmp_path / "parts")
        process.stdout.read(1)  # it plays
        time.sleep(generator.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    parts, _ = start(tmp_path / "parts").communicate()
    assert parts.lstrip(b".") == whole.lstrip(b".") != b""
