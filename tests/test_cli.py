import subprocess
import sys

import pytest

from byzgym.cli import main

SMALL = ["--task", "synthetic", "--rounds", "5", "--seeds", "1"]


def one_line(capsys):
    captured = capsys.readouterr().err
    assert len(captured.strip().splitlines()) == 1
    assert "Traceback" not in captured
    return captured


def test_compare_writes_everything_and_report_makes_it_again(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [
        "compare",
        *SMALL,
        "--policies",
        "mean",
        "oracle",
        "--attacks",
        "sign_flip",
        "--out",
        str(out),
    ]
    assert main(arguments) == 0
    names = {path.name for path in out.iterdir()}
    assert {"results.csv", "curves.csv", "config.json", "overview.png", "report.html", "report.md"} <= names
    assert "oracle (reference)" in capsys.readouterr().out
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").exists()
    capsys.readouterr()

    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(arguments) == 2
    assert "already holds results" in one_line(capsys)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
    assert main([*arguments, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--seeds", "0"], "seeds must be an integer of at least 1"),
        (["compare", "--policies", "nobody"], "known: "),
        (["compare", "--attacks", "nobody"], "known: "),
        (["compare", "--num-byzantine", "10"], "from 0 to 9, got 10"),
        (["compare", "--learning-rate", "-1"], "-1"),
        (["compare", "--task", "mnist", "--data-root", "/nowhere"], "nowhere"),
        (["report", "/nowhere"], "holds no results"),
        (["evaluate", "--policy", "nobody"], "known: "),
        (["evaluate", "--episodes", "0"], "episodes"),
        (["evaluate", "--num-byzantine", "10"], "num_byzantine"),
        (["evaluate", "--model-path", "/nowhere.zip"], "nowhere"),
        (["evaluate", "--policy", "mean", "--model-path", "model.zip"], "not both: mean, model.zip"),
        (["evaluate", "--algorithm", "sac"], "--algorithm sac is for the model of --model-path"),
        (["evaluate", "--policy", "krum:num_byzantine=8"], "needs n >= 2f + 3, got n=10 and num_byzantine=8"),
        (["compare", "--policies", "oracle:simulation=3"], "oracle takes no parameters"),
        (["compare", "--task", "mnist:root=/a"], "quotes included"),
        (["train", "--num-envs", "0"], "num_envs"),
        (["train", "--steps", "0"], "steps"),
        (["bench", "--num-envs", "0"], "num_envs"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in one_line(capsys)
    assert not list(tmp_path.iterdir())


def test_unknown_options_end_with_status_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--nothing"])
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_list(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert all(
        name in text for name in ("digits", "lenet", "dirichlet", "sign_flip", "pretense", "bulyan", "gaa")
    )
    assert main(["list", "attacks"]) == 0
    assert "digits" not in capsys.readouterr().out.split("name", 1)[0]
    assert main(["list", "models"]) == 0
    text = capsys.readouterr().out
    assert "*widths" in text
    assert "num_classes" not in text  # the environment fills that in


def test_evaluate(capsys):
    arguments = ["evaluate", "--policy", "krum", "--episodes", "2", "--task", "synthetic", "--rounds", "5"]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert "krum is told f = 3, the largest it accepts (needs n >= 2f + 3)" in first
    assert "accuracy: " in first
    assert main(arguments) == 0
    assert capsys.readouterr().out == first


def test_an_interruption_before_anything_is_finished_leaves_earlier_results(tmp_path, capsys, monkeypatch):
    arguments = ["compare", *SMALL, "--policies", "mean", "--attacks", "ipm", "--out", str(tmp_path)]
    assert main(arguments) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("byzgym.experiments.compare.play_batch", interrupted)
    assert main([*arguments, "--overwrite"]) == 130
    assert "interrupted; before the first policy was finished" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.global_rng
def test_train_and_evaluate_the_model(tmp_path, capsys):
    setting = ["--task", "synthetic", "--rounds", "5"]
    out = tmp_path / "agent"
    train = ["train", *setting, "--steps", "64", "--num-envs", "8", "--out", str(out)]
    assert main(train) == 0
    capsys.readouterr()
    assert main(train) == 2
    assert "--overwrite" in one_line(capsys)
    model = ["--model-path", str(out / "model.zip"), "--episodes", "1"]
    assert main(["evaluate", *setting, *model]) == 0
    assert "return" in capsys.readouterr().out
    assert main(["evaluate", *setting, *model, "--num-workers", "5", "--num-byzantine", "3"]) == 2
    assert "observation_space" in one_line(capsys)


@pytest.mark.global_rng
@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "sac", "td3"])
@pytest.mark.parametrize("observation", [[], ["pooled"], ["trust"]])
def test_train_with_all_learners(tmp_path, capsys, algorithm, observation):
    setting = ["--task", "synthetic", "--rounds", "5"]
    setting += ["--observation", *observation] if observation else []
    train = ["train", *setting, "--algorithm", algorithm, "--steps", "200", "--num-envs", "3"]
    assert main([*train, "--out", str(tmp_path)]) == 0
    command = capsys.readouterr().out.split("`")[1]
    assert f"--algorithm {algorithm}" in command
    assert ("--observation" in command) == bool(observation)
    assert main([*command.split()[1:], "--episodes", "1"]) == 0


def test_as_a_module():
    run = subprocess.run(
        [sys.executable, "-m", "byzgym.cli", "compare", "--seeds", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr == "byzgym: seeds must be an integer of at least 1, got 0\n"
