"""Results that somebody has edited are refused in a line that names the file, the place and the value."""

import json
import re

import pandas as pd
import pytest

from byzgym.cli import main
from byzgym.experiments.compare import compare
from byzgym.experiments.comparison import Comparison
from byzgym.experiments.records import Records


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    comparison = Comparison(
        task="synthetic", rounds=3, seeds=2, policies=("krum", "gaa"), attacks=("ipm",), momentum=0
    )
    compare(comparison, folder)
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def folder(written, tmp_path):
    for name, text in written.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def refused(folder, message, capsys):
    with pytest.raises(ValueError, match=message):
        Records.read(folder)
    assert main(["report", str(folder)]) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert re.search(message, told)


def test_what_is_not_edited_is_read(folder):
    assert len(Records.read(folder).results) == 4


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("num_byzantine", 3, r"line 2: num_byzantine must be one of those in config\.json, 7, got 3"),
        ("num_byzantine", 7.5, "line 2: num_byzantine must be a whole number, got 7.5"),
        ("policy", "median", r"line 2: policy must be one of those in config\.json, krum, gaa, got median"),
        ("attack", "alie", r"line 2: attack must be one of those in config\.json, ipm, got alie"),
        ("seed", 2, "line 2: seed must be a number from 0 to 1, got 2"),
        ("accuracy", 1.5, "line 2: accuracy must be a number from 0 to 1, got 1.5"),
        ("accuracy", -0.1, "line 2: accuracy must be a number from 0 to 1, got -0.1"),
        ("accuracy", "inf", "line 2: accuracy must be a finite number, got inf"),
        ("qv_loss", "-inf", "line 2: qv_loss must be a finite number, got -inf"),
    ],
)
@pytest.mark.parametrize("name", ["results.csv", "curves.csv"])
def test_entries(folder, name, column, value, message, capsys):
    table = pd.read_csv(folder / name).astype(object)
    table.loc[0, column] = value
    table.to_csv(folder / name, index=False)
    refused(folder, f"{name}, {message}", capsys)


def test_every_row_of_an_unnamed_number_of_byzantine_workers(folder, capsys):
    table = pd.read_csv(folder / "results.csv").assign(num_byzantine=3)
    table.to_csv(folder / "results.csv", index=False)
    refused(folder, r"results\.csv, line 2: num_byzantine must .* 7, got 3", capsys)


@pytest.mark.parametrize("value", ["maybe", "1", "yes"])
def test_diverged_is_true_or_false(folder, value, capsys):
    table = pd.read_csv(folder / "results.csv", dtype={"diverged": str})
    table.loc[2, "diverged"] = value
    table.to_csv(folder / "results.csv", index=False)
    refused(folder, rf"results\.csv, line 4: diverged must be True or False, got {value}", capsys)


@pytest.mark.parametrize("change", [str, str.upper, str.lower])
def test_diverged_as_spreadsheets_write_it(folder, change):
    table = pd.read_csv(folder / "results.csv", dtype={"diverged": str})
    table["diverged"] = ["False", "True", "False", "True"]
    table["diverged"] = table["diverged"].map(change)
    table.to_csv(folder / "results.csv", index=False)
    assert Records.read(folder).results["diverged"].tolist() == [False, True, False, True]


def test_rounds_of_the_curves(folder, capsys):
    table = pd.read_csv(folder / "curves.csv")
    table.loc[1, "round"] = 4
    table.to_csv(folder / "curves.csv", index=False)
    refused(folder, r"curves\.csv, line 3: round must be a number from 0 to 3, got 4", capsys)


@pytest.mark.parametrize("name", ["results.csv", "curves.csv"])
def test_a_run_is_there_once(folder, name, capsys):
    lines = (folder / name).read_text().splitlines()
    (folder / name).write_text("\n".join([*lines, lines[1]]) + "\n")
    message = (
        rf"{name}, line {len(lines) + 1}: .* twice, got policy krum, attack ipm, num_byzantine 7, seed 0"
    )
    refused(folder, message, capsys)


TOLD = {"policy": "krum", "num_byzantine": 7, "told": 3, "condition": ""}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("policies", [1], r"policies must be a list of strings, got \[1\]"),
        ("policies", "gaa", "policies must be a list of strings, got 'gaa'"),
        ("attacks", [1, None], r"attacks must be a list of strings, got \[1, None\]"),
        ("num_byzantine", ["7"], r"num_byzantine must be a list of whole numbers, got \['7'\]"),
        ("roles", 3, "roles must be a string, got 3"),
        ("model", 3, "model must be a string or null, got 3"),
        ("momentum", "high", "momentum must be a number, got 'high'"),
        ("rounds", True, "rounds must be a whole number, got True"),
        (None, {"arguments": []}, r"arguments must be an object, got \[\]"),
        (None, {"references": "oracle"}, "references must be a list, got 'oracle'"),
        (None, {"references": [1]}, r"references must be a list of strings, got \[1\]"),
        (None, {"told": {}}, r"told must be a list, got \{\}"),
        (None, {"told": [TOLD | {"policy": [1]}]}, r"told policy must be a string, got \[1\]"),
        (None, {"told": [TOLD | {"told": "3"}]}, "told told must be a whole number, got '3'"),
        (None, {"told": ["krum"]}, "an entry of told must be an object with .*, got 'krum'"),
        (None, {"versions": ["1.0"]}, r"versions must be an object, got \['1.0'\]"),
        (None, {"versions": {"torch": 2}}, "versions torch must be a string, got 2"),
    ],
)
def test_config(folder, key, value, message, capsys):
    config = json.loads((folder / "config.json").read_text())
    if key is None:
        config |= value
    else:
        config["arguments"][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, rf"config\.json is not the configuration of results: {message}", capsys)
