import pytest
import tyro

from byzgym.cli.arguments import registry
from byzgym.cli.evaluate import Evaluate


def read(*words):
    return tyro.cli(Evaluate, args=words, registry=registry, config=(tyro.conf.FlagCreatePairsOff,))


def test_names_with_parameters_are_text():
    given = read("--task", "csv:path=/data/mine.csv,label=column", "--roles", "pretense:until=5")
    assert given.task == "csv:path=/data/mine.csv,label=column"
    assert given.roles == "pretense:until=5"


def test_lists_of_names():
    assert read("--attack", "ipm:epsilon=1.0", "alie").attack == ("ipm:epsilon=1.0", "alie")
    assert read().attack == Evaluate().attack


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("0.5", 0.5),
        ("None", None),
        ('{"initial": 0.1, "schedule": "cosine"}', {"initial": 0.1, "schedule": "cosine"}),
    ],
)
def test_learning_rates(word, value):
    assert read("--learning-rate", word).learning_rate == value


def test_what_is_no_learning_rate(capsys):
    with pytest.raises(SystemExit):
        read("--learning-rate", "fast")
    assert "expected a number" in capsys.readouterr().err
