"""`byzgym.cli.main`: what all commands share."""

import os
import subprocess
import sys

import pytest

import byzgym
from byzgym.cli import main

BYZGYM = [sys.executable, "-m", "byzgym"]
PLAY = ["compare", "--task", "synthetic", "--rounds", "3", "--seeds", "2", "--policies", "krum"]
PLAY += ["--attacks", "ipm", "--processes", "1", "--out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("compare --seeds 0", "seeds must be an integer of at least 1"),
        ("compare --policies krmu", "did you mean 'krum'"),
        ("compare --attacks nobody", "known: "),
        ("compare --num-byzantine 10", "from 0 to 9, got 10"),
        ("compare --task mnist:root=/nowhere", "nowhere"),
        ("report /nowhere", "holds no runs"),
        ("evaluate --policy krum:", "expected 'name'"),
        ("evaluate --episodes 0", "episodes"),
        ("evaluate --num-byzantine 10", "num_byzantine"),
        ("evaluate --model-path /nowhere.zip", "nowhere"),
        ("evaluate --policy mean --model-path model.zip", "not both: mean, model.zip"),
        ("evaluate --algorithm sac", "--algorithm: only for the model of --model-path, which is missing"),
        ("evaluate --pool-size 5 --rules mean", "--pool-size, --rules: only for the model of --model-path"),
        ("evaluate --policy krum --observation all", "--observation: only for the model of --model-path"),
        ("evaluate --policy krum --action update", "--action: only for the model of --model-path"),
        (
            "train --pool-size 5",
            "--pool-size: only for the part pooled of the observation, got --observation",
        ),
        ("train --rounds 0", "rounds must be an integer of at least 1, got 0"),
        ("train --observation all of it", "observation must be one of"),
        ("evaluate --policy model:nowhere.zip", "there is no model nowhere.zip"),
        ("compare --policies model:nowhere.zip", "there is no model nowhere.zip"),
        ("compare --policies model", "missing a required argument: 'path'"),
        ("compare --policies gaa:nowhere.zip", "expected 'gaa:key=value'"),
        ("compare --policies ensemble:members=krum+", "members[1]: expected 'name'"),
        ("compare --policies ensemble:members=krum+oracle", "members[1] must not be a reference"),
        ("compare --policies ensemble:members=mean+model:nowhere.zip", "members[1]: there is no model"),
        ("compare --policies ensemble:members=['mean','fixed:credits=[1,2]']", "2 (raised by members[1])"),
        ("compare --policies gaa:start=krum:f=1", "start: rule 'krum': got an unexpected"),
        ("compare --policies set:pretrained=maybe", "pretrained must be True or False, got 'maybe'"),
        ("train --num-envs 0", "num_envs"),
        ("train --evaluate-every 0", "evaluate_every must be an integer of at least 1, got 0"),
        ("train --evaluation-episodes 0", "evaluation_episodes must be an integer of at least 1, got 0"),
        ("train --action update", "action must be 'credits', 'null_slot' or 'rule' for a training"),
        ("train --resume", "holds no training to resume"),
        ("train --steps 0", "steps"),
        ("train --reward qv --reward-size 64", "got reward='qv' and reward_size=64"),
        ("train --seed 4294967296", "seed must be an integer from 0 to 4294967295, got 4294967296"),
        ("bench --num-envs 0", "num_envs"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in mistake(*arguments.split())
    assert not list(tmp_path.iterdir())


def test_unknown_options_end_with_status_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--nothing"])
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_version(output):
    assert output("--version") == f"byzgym {byzgym.__version__}\n"


def test_a_users_module_is_imported(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from byzgym import aggregation, attacks\n"
        "attacks.register('mine', lambda: lambda gradients, byzantine, context: -gradients)\n"
        "aggregation.register('mine', lambda: lambda gradients: gradients.mean(-2))\n"
    )
    arguments = ["--import", "mine", *PLAY, "out", "--policies", "mine", "--attacks", "mine"]
    script = f"import sys; from byzgym.cli import main; sys.exit(main({arguments}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
    run = [sys.executable, "-c", script]
    subprocess.run(run, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert "byzgym --import mine compare" in (tmp_path / "out" / "report.md").read_text()


def test_a_module_that_is_not_there(mistake):
    assert "--import not_there: No module named 'not_there'" in mistake("--import", "not_there", "list")


@pytest.mark.parametrize("name", ["./my_module", ""])
def test_what_names_no_module(mistake, name):
    assert f"--import must be the name of a module, such as my_module, got {name!r}" in mistake(
        "--import", name, "list"
    )


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "from byzgym import attacks\nattacks.register('ipm', lambda: None)",
            "ValueError: attack 'ipm' is built in",
        ),
        ("raise KeyError('two\\nlines')", "KeyError: "),
        ("def", "SyntaxError: "),
    ],
)
def test_a_module_that_raises(mistake, tmp_path, monkeypatch, code, message):
    (tmp_path / "raising_module.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert f"byzgym: --import raising_module: {message}" in mistake("--import", "raising_module", "list")


def test_an_output_that_nobody_reads(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run([*BYZGYM, *PLAY, tmp_path], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (run.returncode, run.stderr) == (1, b"")
    assert (tmp_path / "report.html").exists()


def test_help_imports_nothing_heavy():
    script = "import sys; from byzgym.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    script += "print([name for name in ('pandas', 'matplotlib', 'stable_baselines3') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_an_output_without_unicode(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    run = subprocess.run([*BYZGYM, *PLAY, tmp_path / "é"], capture_output=True, env=environment, check=False)
    assert (run.returncode, run.stderr) == (0, b"")
    assert b"krum (1)" in run.stdout
    assert b"?:runs.sqlite" in b"".join(run.stdout.split())  # a long path is wrapped
