from byzgym.cli.terminal import Terminal


def test_the_progress_bar_takes_any_name(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich draws no bar if the output is not a terminal
    with Terminal().progress(2) as advance:
        advance("[/red]mine", 1)
        advance("[/red]mine", 1)
    assert "[/red]mine" in capsys.readouterr().out
