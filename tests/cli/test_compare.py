import shlex

import pytest

from byzgym import agents, aggregation, attacks
from byzgym.cli import main
from byzgym.experiments import play
from byzgym.experiments.results import Results
from byzgym.experiments.store import NAME

SMALL = ["compare", "--task", "synthetic", "--rounds", "3", "--seeds", "2"]
HERE = ["--processes", "1"]
PLAY = [*SMALL, *HERE, "--policies", "mean", "krum", "--attacks", "ipm", "--out"]


def interrupt(*_):
    raise KeyboardInterrupt


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_everything_is_written(tmp_path, output, monkeypatch):
    out = tmp_path / "out"
    first = output(*PLAY, out)
    assert "krum" in first
    assert {NAME, "overview.png", "report.html", "report.md", "threat_model.json", "threat_model.md"} <= {
        path.name for path in out.iterdir()
    }
    with monkeypatch.context() as patch:
        patch.setattr(play, "play_batch", interrupt)
        assert output(*PLAY, out) == first
    output(*PLAY, out, "--overwrite")


def test_reports_of_somebody_else_stay(tmp_path, output, mistake):
    (tmp_path / "report.md").write_text("mine")
    assert "already holds reports" in mistake(*PLAY, tmp_path)
    assert content(tmp_path) == {"report.md": b"mine"}
    output(*PLAY, tmp_path, "--overwrite")


@pytest.mark.parametrize("name", ["res[/foo]", "res[bold]x", "a:smile:b"])
def test_paths_are_printed_as_they_are(tmp_path, monkeypatch, output, name):
    monkeypatch.chdir(tmp_path)
    assert f"{name}: {NAME}" in output(*PLAY, name)
    assert f"{name}: {NAME}, overview.png" in output("report", name)


def test_names_are_printed_as_they_are(tmp_path, output):
    agents.register("[red]mine", lambda: agents.make("mean", num_byzantine=0))
    aggregation.register("[/rule]", lambda: lambda gradients: gradients.mean(-2))
    attacks.register("[/attack]", lambda: lambda gradients, byzantine, context: gradients)
    names = ["[red]mine", "[/rule]", "[/attack]"]
    text = output(*SMALL, *HERE, "--policies", *names[:2], "--attacks", names[2], "--out", tmp_path / "out")
    assert all(name in text for name in names)


def test_interrupted_before_the_first_policy(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(play, "play_batch", interrupt)
    assert main([*PLAY, str(tmp_path)]) == 130
    assert "interrupted; nothing was finished" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["play.play_batch", "report.draw"])
def test_interrupted_after_a_policy(tmp_path, capsys, monkeypatch, where):
    play_batch, out = play.play_batch, tmp_path / "my results"

    def replaced(*arguments):
        return play_batch(*arguments) if arguments[1:2] == ("mean",) else interrupt()

    monkeypatch.setattr(f"byzgym.experiments.{where}", replaced)
    assert main([*PLAY, str(out)]) == 130
    error = capsys.readouterr().err
    assert f"what was finished is in {out}, and `byzgym report {shlex.quote(str(out))}` shows it" in error
    assert "mean" in set(Results.read(out).runs["policy"])


def test_a_failing_cell(tmp_path, capsys):
    class Failing(attacks.SignFlip):
        def __call__(self, gradients, byzantine, context):
            if int(context.round.max()) == 2:
                raise ArithmeticError("too much")
            return super().__call__(gradients, byzantine, context)

    attacks.register("test_failing", Failing)
    policies = ["--policies", "mean", "krum", "--attacks", "ipm", "test_failing"]
    playing = [*SMALL, *policies, *HERE, "--out", str(tmp_path)]
    for command, status in ((playing, 1), (["report", str(tmp_path)], 0)):
        assert main(command) == status
        shown = capsys.readouterr()
        assert "byzgym: unfinished: 4 of 8 runs, 4 failed" in shown.err
        assert "4 failed: ArithmeticError: too much" in shown.err
        assert "(0 of 2)" in shown.out
    page = (tmp_path / "report.html").read_text()
    assert "Unfinished: 4 of 8 runs, 4 failed" in page
    assert "✗ failed: ArithmeticError: too much" in page


@pytest.mark.slow
def test_the_command_line_plays_in_processes(tmp_path, output):
    name = str(tmp_path / "both")
    both = output(*SMALL, "--policies", "mean", "krum", "--attacks", "ipm", "--processes", "2", "--out", name)
    here = output(*PLAY, tmp_path / "here")
    assert both.rpartition("\n\n")[0] == here.rpartition("\n\n")[0]  # the last lines name the folder


def test_the_author_of_an_error_is_named(mistake, tmp_path):
    attacks.register("test_typo", lambda: lambda gradients, byzantine, context: gradients + "x")
    error = mistake(*SMALL, "--attacks", "test_typo", "--out", tmp_path / "out")
    assert "unsupported operand" in error
    assert "(raised by attack" in error


@pytest.mark.global_rng
def test_a_model_is_compared(tmp_path, output, monkeypatch):
    from byzgym.integrations.sb3 import evaluation

    monkeypatch.setattr(evaluation, "CONTROLS", ())
    folder = tmp_path / "a,b"
    train = ["--task", "synthetic", "--rounds", "3", "--num-envs", "128", "--evaluation-episodes", "2"]
    output("train", *train, "--steps", "256", "--qv-size", "30", "--out", folder)
    policy = f"model:{folder}/model.zip"
    text = output(*SMALL, *HERE, "--policies", policy, "mean", "--attacks", "ipm", "--out", tmp_path / "out")
    note = "trained with qv_size 30, evaluated with 10"
    assert note in " ".join(text.split())
    results = Results.read(tmp_path / "out")
    label = f"model:'{folder}/model.zip'"  # quoted because of the comma
    assert list(results.comparison.policies) == [label, "mean"]
    assert results.notes == [f"{label}: {note}"]
    assert note in (tmp_path / "out" / "report.md").read_text()
