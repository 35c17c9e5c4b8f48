import shlex

import pytest

from byzgym import agents, aggregation, attacks
from byzgym.cli import main
from byzgym.experiments import play
from byzgym.experiments.results import Results

SMALL = ["compare", "--task", "synthetic", "--rounds", "3", "--seeds", "2"]
PLAY = [*SMALL, "--policies", "mean", "krum", "--attacks", "ipm", "--out"]


def interrupt(*_):
    raise KeyboardInterrupt


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_everything_is_written(tmp_path, output, mistake):
    out = tmp_path / "out"
    assert "krum" in output(*PLAY, out)
    expected = {"results.csv", "curves.csv", "config.json", "overview.png", "report.html", "report.md"}
    before = content(out)
    assert expected <= set(before)
    assert "already holds results" in mistake(*PLAY, out)
    assert content(out) == before
    output(*PLAY, out, "--overwrite")


@pytest.mark.parametrize("name", ["res[/foo]", "res[bold]x", "a:smile:b"])
def test_paths_are_printed_as_they_are(tmp_path, monkeypatch, output, name):
    monkeypatch.chdir(tmp_path)
    assert f"{name}: results.csv" in output(*PLAY, name)
    assert f"{name}: overview.png" in output("report", name)


def test_names_are_printed_as_they_are(tmp_path, output):
    agents.register("[red]mine", lambda: agents.make("mean", num_byzantine=0))
    aggregation.register("[/rule]", lambda: lambda gradients: gradients.mean(-2))
    attacks.register("[/attack]", lambda: lambda gradients, byzantine, context: gradients)
    names = ["[red]mine", "[/rule]", "[/attack]"]
    text = output(*SMALL, "--policies", *names[:2], "--attacks", names[2], "--out", tmp_path / "out")
    assert all(name in text for name in names)


def test_interrupted_before_the_first_policy(tmp_path, capsys, output, monkeypatch):
    output(*PLAY, tmp_path)
    before = content(tmp_path)
    monkeypatch.setattr(play, "play_batch", interrupt)
    assert main([*PLAY, str(tmp_path), "--overwrite"]) == 130
    assert f"nothing was finished, and nothing in {tmp_path} has changed" in capsys.readouterr().err
    assert content(tmp_path) == before


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
    text = output(*SMALL, "--policies", policy, "mean", "--attacks", "ipm", "--out", tmp_path / "out")
    note = "trained with qv_size 30, evaluated with 10"
    assert note in " ".join(text.split())
    results = Results.read(tmp_path / "out")
    label = f"model:'{folder}/model.zip'"  # quoted because of the comma
    assert list(results.comparison.policies) == [label, "mean"]
    assert results.notes == [f"{label}: {note}"]
    assert note in (tmp_path / "out" / "report.md").read_text()
