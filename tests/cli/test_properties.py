import torch

from byzgym import aggregation

FEW = ("--draws", "2", "--dimension", "4")


def cells(text, rule):
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [rule]]
    return line


def test_rules_that_are_named(output, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = output("properties", "median", "nnm+krum", "mean", "--num-workers", "7", *FEW)
    assert cells(text, "median").split()[1:3] == ["3", "yes"]  # f, permutation
    assert cells(text, "median").split()[-1] == "4"  # break it
    assert cells(text, "nnm+krum").split()[1] == "2"
    assert cells(text, "mean").count("(no)") == 2  # breakdown and dimensional
    assert "No claim was refuted." in text
    assert "dimensional: nor can f corrupted values" in text


def test_names_and_numbers_are_whole_on_a_narrow_terminal(output, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = output("properties", "mean_around_median", "median", "--num-workers", "7", *FEW)
    assert cells(text, "mean_around_median").split()[1] == "3"
    lines = text.splitlines()
    first = lines.index(cells(text, "median"))
    assert lines[first].split()[:5] == ["median", "3", "yes", "yes", "yes"]
    assert len(lines[first + 1].split()) == 6  # the worst deviations
    assert all(float(number) < 1e3 for number in lines[first + 1].split())


def test_all_rules(output, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    aggregation.register("liar", lambda: Liar())
    text = output("properties", "--num-workers", "5", *FEW)
    assert "REFUTED" in cells(text, "liar")
    assert "Refuted: liar: scale" in text
    text = output("properties", "--num-workers", "2", *FEW)
    assert "Left out: rule krum needs n >= 2f + 3, got n=2" in text


class Liar:
    claims = frozenset({"scale"})

    def __call__(self, gradients):
        return torch.ones_like(gradients[..., 0, :])


def test_mistakes(mistake):
    assert "did you mean 'krum'" in mistake("properties", "krumm")
    assert "num_workers must be" in mistake("properties", "--num-workers", "0")
