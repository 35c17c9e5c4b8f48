import shlex

import pytest

from byzgym import aggregation
from byzgym.cli import main
from byzgym.experiments import play
from byzgym.experiments.config import DEFAULT_ATTACKS, Comparison
from byzgym.experiments.store import Store
from byzgym.experiments.tuning import NAME

pytest.importorskip("optuna", reason="optuna is not installed: pip install byzgym[tune]")
SMALL = ["tune", "krum", "--task", "synthetic", "--rounds", "3", "--seeds", "1", "--processes", "1"]
WORDS = [*SMALL, "--search", "num_byzantine=0:3", "--out"]


def test_the_winner_and_the_command_that_reports_it(tmp_path, output):
    text = output(*WORDS, tmp_path, "--trials", 6, "--num-byzantine", 3)
    first, *_, last = text.strip().splitlines()
    assert first == (
        "tuning on validation samples of synthetic, a fifth of its training data, with attacks random "
        "label_flip mimic min_max, f = 3 of 10 and seeds 1000 to 1000"
    )
    assert "krum (control)" in text
    with Store(tmp_path) as store:
        runs = store.table()
    assert set(runs["task"]) == {"validation:synthetic"}
    assert not set(runs["attack"]) & set(DEFAULT_ATTACKS)
    assert not set(runs["seed"]) & set(range(Comparison().seeds))
    if last.startswith("byzgym compare"):
        words = shlex.split(last)[1:]
        assert "validation" not in last
        output(*words, "--processes", 1, "--out", tmp_path / "report")
        with Store(tmp_path / "report") as store:
            reported = store.table()
        assert set(reported["task"]) == {"synthetic"}
        assert set(reported["attack"]) == set(DEFAULT_ATTACKS)
        assert set(reported["seed"]) == {0, 1, 2, 3, 4}
        assert set(reported["policy"]) > {"krum"}
    else:
        assert last == "no trial was better than the control"


def test_a_winner_is_named_with_its_command(tmp_path, output):
    """A server that does not move learns nothing, so any other share of the mean is better."""
    aggregation.register("test_share", lambda share=0.0: lambda rows: share * rows.mean(-2))
    words = ["tune", "test_share", "--task", "synthetic", "--rounds", 5, "--seeds", 1, "--processes", 1]
    words += [
        "--attacks",
        "zero",
        "--search",
        "share=0.5,1.0",
        "run.batch_size=4,8",
        "--report-attacks",
        "ipm",
    ]
    text = output(*words, "--trials", 3, "--num-byzantine", 2, "--out", tmp_path)
    best, control, command = text.strip().splitlines()[-3:]
    _, policy, _, size = best.split(". ")[0].split()
    assert policy in ("test_share:share=0.5", "test_share:share=1.0")
    assert "It is the best of 3 on what it was chosen by" in best
    rest = ["--attacks", "ipm", "--num-byzantine", "2"]
    given = ["--task", "synthetic", "--rounds", "5", "--policies", "test_share"]
    assert shlex.split(control) == ["byzgym", "compare", *given, *rest]
    given = ["--task", "synthetic", "--batch-size", size, "--rounds", "5", "--policies", policy]
    assert shlex.split(command) == ["byzgym", "compare", *given, *rest]


def test_the_same_command_goes_on(tmp_path, output, capsys, monkeypatch):
    words = [*WORDS, tmp_path, "--trials", 2]
    with monkeypatch.context() as patch:
        patch.setattr(play, "play_batch", interrupt)
        assert main(list(map(str, words))) == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err
    first = output(*words)
    monkeypatch.setattr(play, "play_batch", interrupt)
    assert output(*words) == first
    assert main([*map(str, words), "--overwrite"]) == 130


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--attacks", "ipm:epsilon=2.0"], "attacks and report_attacks must not share ipm: "),
        (["--report-attacks", "mimic"], "attacks and report_attacks must not share mimic: "),
        (["--first-seed", "4"], "first_seed must be above 4, as the report has seeds 0 to 4, got 4"),
        (["--trials", "0"], "trials must be an integer of at least 1, got 0"),
        (["--search", "num_byzantine"], "search must be name=low:high"),
        (["--search", "selected=1:3"], "search selected=1: rule 'krum': got an unexpected keyword argument"),
    ],
)
def test_mistakes(tmp_path, mistake, words, message):
    assert message in mistake(*WORDS, tmp_path / "out", *words)
    assert not (tmp_path / "out" / NAME).exists()


def test_seeds_from_five_are_allowed(tmp_path, output):
    output(*WORDS, tmp_path, "--trials", 1, "--first-seed", 5)


def test_no_trial_has_succeeded(tmp_path, capsys, monkeypatch):
    def failing(*_):
        raise ArithmeticError("no")

    monkeypatch.setattr(play, "play_batch", failing)
    assert main([*WORDS, str(tmp_path), "--trials", "2"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "byzgym: 2 of 2 trials failed: ArithmeticError: no",
        "byzgym: no trial has succeeded",
    ]
