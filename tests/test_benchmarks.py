"""The benchmarks run. Nothing is said about times."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def run(script, *arguments):
    command = [sys.executable, str(FOLDER / script), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_rules():
    names = ("bulyan", "centered_clipping", "nnm")
    text = run("rules.py", "--sizes", "9x40", "--repeats", "1", "--threads", "1", "--rules", *names)
    assert all(name[:8] in text for name in names)


@pytest.mark.slow
def test_a_round():
    assert "krum" in run("round.py", "--attacks", "ipm", "--rules", "krum", "--repeats", "1")


@pytest.mark.slow
def test_a_round_of_agents():
    text = run("agents.py", "--repeats", "1", "--threads", "1")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "<=" in line]
    assert [(row[0], row[2], row[5]) for row in rows] == [("gaa", "mean", "<= 3"), ("set", "krum", "<= 4")]
    assert all(float(row[4]) > 0 for row in rows)


@pytest.mark.slow
def test_convolutions():
    assert "lenet" in run("convolutions.py", "--models", "lenet", "--threads", "1", "--repeats", "1")
