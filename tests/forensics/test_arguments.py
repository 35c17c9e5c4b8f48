"""What is no record, log or trace is refused by the name of the argument."""

import numpy as np
import pytest
import torch

from byzgym import forensics
from byzgym.aggregation import ServerView
from byzgym.forensics import Log, Recorder, Trace
from byzgym.forensics.record import finish

VIEW = ServerView(torch.ones(1, 2, 3), torch.zeros(1, 3), 0.1, None)
TRACE = "trace must be a Trace, such as log.trace() or read(path).trace, got "
ANALYSIS = "analysis must be an Analysis, which analyse(trace) gives, got "


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (forensics.analyse, [3], TRACE + "int"),
        (forensics.analyse, [Log()], TRACE + "Log"),
        (forensics.calibrate, [None], TRACE + "NoneType"),
        (forensics.suspicion, [np.ones((3, 2))], TRACE + "ndarray"),
        (forensics.evaluate, [3, [True]], ANALYSIS + "int"),
        (forensics.draw, [Trace(credits=[[1.0]]), "run.png"], ANALYSIS + "Trace"),
        (forensics.groups, ["who"], "copy_of must be an array of numbers, got 'who'"),
        (forensics.near_copies, [np.ones((1, 2, 3))], "gradients must be a tensor, got ndarray"),
        (forensics.split, [{}], "scores must be an array of numbers, got {}"),
        (forensics.read, [3], "path must be a path, got int"),
        (finish, [None], "path must be a path, got NoneType"),
        (Recorder, [3], "path must be a path, got int"),
        (Recorder, ["run.jsonl", 3], "configuration must be a mapping or None, got int"),
        (Log().add, [3, None], "view must be a ServerView, got int"),
        (Log().add, [VIEW, torch.ones(1, 3)], "decision must be a Decision, got Tensor"),
        (Trace, ["who"], "credits or cosine must be an array of numbers, got 'who'"),
        (Trace, [[[1.0]], None, [["long"]]], "norm must be an array of numbers, got [['long']]"),
    ],
)
def test_another_kind(tmp_path, monkeypatch, function, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError) as caught:
        function(*arguments)
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_a_recorder_takes_a_log(tmp_path):
    with (
        Recorder(tmp_path / "run.jsonl") as recorder,
        pytest.raises(TypeError, match="log must be a Log, got "),
    ):
        recorder.add(VIEW)


@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [
        (forensics.groups, 3, r"copy_of must have shape \[T, n\], got \[\]"),
        (forensics.near_copies, torch.ones(2, 3), r"gradients must have shape \[E, n, d\], got \[2, 3\]"),
        (forensics.split, [], "scores must not be empty"),
        (Trace, 3, r"credits or cosine must have shape \[T, n\], got \[\]"),
        (Trace, np.ones((0, 2)), r"credits or cosine must have at least one round and worker, got \[0, 2\]"),
    ],
)
def test_another_shape(function, argument, message):
    with pytest.raises(ValueError, match=message):
        function(argument)
