import pytest

from byzgym.cli import main


@pytest.fixture
def mistake(capsys):
    """Runs a command that has to end with status 2, and gives the one line that it prints."""

    def run(*arguments):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("byzgym: ")
        assert len(error.splitlines()) == 1
        return error

    return run


@pytest.fixture
def output(capsys):
    """Runs a command that has to succeed, and gives what it prints."""

    def run(*arguments):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    return run
