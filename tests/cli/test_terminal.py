from byzgym.cli import terminal


def test_the_progress_bar_takes_any_name(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich draws no bar if the output is not a terminal
    with terminal.Terminal().progress(2) as advance:
        advance("[/red]mine", 1)
        advance("[/red]mine", 1)
    assert "[/red]mine" in capsys.readouterr().out


def test_progress_in_plain_lines(capsys, monkeypatch):
    times = iter([20.0, 40.0, 50.0, 80.0])
    monkeypatch.setattr(terminal.time, "monotonic", times.__next__)
    with terminal.Terminal().progress(1000, 200, every=30) as advance:
        for _ in range(4):
            advance("ppo", 100)
    monkeypatch.undo()
    assert capsys.readouterr().out.splitlines() == [
        "ppo: 500 of 1000 steps, 0:01:15 left",
        "ppo: 600 of 1000 steps, 0:01:20 left",
    ]


def test_no_progress_where_nobody_sees_it(capsys):
    with terminal.Terminal().progress(10) as advance:
        advance("krum", 10)
    assert capsys.readouterr().out == ""


def test_the_options_that_were_given():
    words = ["train", "--qv-size", "10", "--rounds=5", "--num_envs", "3", "-h", "--resume"]
    assert terminal.Terminal(words=words).given == {"qv_size", "rounds", "num_envs", "resume"}
