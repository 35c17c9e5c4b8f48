"""agents/set.py: a training that is killed goes on and ends with the same weights."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from byzgym import agents

SCRIPT = Path(__file__).parents[2] / "agents" / "set.py"
TINY = ["--generations", "3", "--groups", "2", "--num-envs", "2", "--processes", "1"]


def start(folder):
    command = [sys.executable, str(SCRIPT), "--out", str(folder), *TINY]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path):
    whole = start(tmp_path / "whole")
    killed = start(tmp_path / "killed")
    for line in killed.stdout:
        if line.startswith("1/3"):
            killed.send_signal(signal.SIGKILL)
            break
    killed.wait()
    assert whole.wait() == 0
    again = start(tmp_path / "killed")
    lines = again.stdout.read().splitlines()
    assert again.wait() == 0
    assert [line.split()[0] for line in lines if "/3" in line] == ["2/3", "3/3"]
    weights, others = (load_file(tmp_path / name / "set.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    start_weights = agents.SetAggregator(pretrained=False).network.state_dict()
    assert any(not torch.equal(weights[name], start_weights[name]) for name in weights)
