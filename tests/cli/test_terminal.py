import pytest

from byzgym.cli.terminal import InputError, Terminal, mistakes


def test_the_progress_bar_takes_any_name(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich draws no bar if the output is not a terminal
    with Terminal().progress(2) as advance:
        advance("[/red]mine", 1)
        advance("[/red]mine", 1)
    assert "[/red]mine" in capsys.readouterr().out


def test_commands_keep_imports():
    assert Terminal(["mine"]).command("report", "my results") == "byzgym --import mine report 'my results'"


def test_mistakes_are_one_line_with_notes():
    error = ValueError("two\nlines")
    error.add_note("raised by attack 'x'")
    with pytest.raises(InputError, match=r"^two lines \(raised by attack 'x'\)$"), mistakes():
        raise error
