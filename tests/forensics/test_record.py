import json

import numpy as np
import pytest
import torch
from forensics_cases import played

from byzgym import agents
from byzgym.aggregation import Decision, ServerView
from byzgym.files import WriteError
from byzgym.forensics import Log, Recorder, analyse, read
from byzgym.forensics.record import finish
from byzgym.simulation import Simulation

FIELDS = {"credits", "cosine", "norm", "copy_of", "rejected", "round", "qv_loss", "update_norm"}


def play(path, policy="faba", rounds=40, stop=None, truth=True, **options):
    """Play a run with a recorder; an error ends it before the round ``stop``."""
    simulation = Simulation.make(num_byzantine=3, attack="ipm", seed=0, rounds=rounds)
    agent, log = agents.build(policy, simulation), Log()
    with Recorder(path, {"title": "mine", "policy": policy}, **options) as recorder:
        for number in range(rounds):
            if number == stop:
                raise KeyboardInterrupt
            decision = agent.decide(simulation.view)
            log.add(simulation.view, decision)
            recorder.add(log, byzantine=simulation.byzantine_rows[0] if truth else None)
            simulation.apply(decision)
    return log


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("policy", ["faba", "median"])
def test_what_is_read_is_what_was_played(tmp_path, policy):
    log = play(tmp_path / "a.jsonl", policy)
    record = read(tmp_path / "a.jsonl")
    for name in FIELDS:
        np.testing.assert_allclose(getattr(record.trace, name), getattr(log.trace(), name), rtol=1e-6)
    assert record.complete
    assert record.configuration == {"title": "mine", "policy": policy}
    assert set(record.versions) == {"byzgym", "torch", "numpy", "scipy", "python"}
    assert record.byzantine.sum(1).tolist() == [3] * 40


def test_lines_of_a_finished_record(tmp_path):
    play(tmp_path / "a.jsonl")
    header, *rounds, last = lines(tmp_path / "a.jsonl")
    assert (header["type"], header["schema"], last["type"]) == ("header", 1, "verdicts")
    assert len(rounds) == 40
    assert set(rounds[0]) == FIELDS | {"type", "byzantine", "scores", "flagged"}
    found = analyse(read(tmp_path / "a.jsonl").trace)
    assert [line["flagged"] for line in rounds] == [np.flatnonzero(row).tolist() for row in found.flagged]
    np.testing.assert_allclose([line["scores"] for line in rounds], found.scores, rtol=1e-5, atol=1e-7)
    assert [worker["verdict"] for worker in last["workers"]] == [str(verdict) for verdict in found.verdicts]
    assert last["groups"] == [list(group) for group in found.groups]
    assert last["summary"] == found.summary
    assert read(tmp_path / "a.jsonl").verdicts == last


def test_an_interrupted_run_leaves_what_it_played(tmp_path):
    path = tmp_path / "a.jsonl"
    with pytest.raises(KeyboardInterrupt):
        play(path, stop=25)
    record = read(path)
    assert record.trace.num_rounds == 25
    assert not record.complete
    assert record.verdicts is None
    with path.open("a") as file:
        file.write('{"type": "round", "round": 25, "credi')  # killed while it wrote
    assert read(path).trace.num_rounds == 25
    assert len(finish(path).verdicts) == 10
    assert read(path).complete
    finish(path)
    assert len(lines(path)) == 27


def test_more_rounds_than_the_log_keeps(tmp_path):
    log = Log(rounds=2)
    view = ServerView(torch.ones(1, 3, 2), torch.zeros(1, 2), 0.1, None)
    with Recorder(tmp_path / "a.jsonl") as recorder:
        for _ in range(6):
            log.add(view, Decision(torch.ones(1, 2)))
            recorder.add(log)
    record = read(tmp_path / "a.jsonl")
    assert record.trace.round.tolist() == list(range(6))
    assert record.byzantine is None
    assert record.configuration == {}


def test_one_run_of_a_batch(tmp_path):
    log, _ = played("krum", rounds=3, num_envs=2)
    with Recorder(tmp_path / "a.jsonl") as recorder:
        recorder.add(log, run=1)
    np.testing.assert_allclose(read(tmp_path / "a.jsonl").trace.norm, log.trace(1).norm[2:], rtol=1e-6)


def test_files_are_kept_unless_told(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"a\.jsonl exists"):
        play(path)
    assert path.read_text() == "mine"
    play(path, overwrite=True)
    assert read(path).complete
    with pytest.raises(WriteError, match="cannot write"):
        Recorder(tmp_path / "nowhere" / "a.jsonl")


def test_a_closed_recorder(tmp_path):
    recorder = Recorder(tmp_path / "a.jsonl")
    assert recorder.close() is None
    log, _ = played("krum", rounds=1)
    with pytest.raises(ValueError, match="is closed"):
        recorder.add(log)
    with pytest.raises(ValueError, match="holds no rounds"):
        read(tmp_path / "a.jsonl")


def test_byzantine_of_the_wrong_shape(tmp_path):
    log, _ = played("krum", rounds=1)
    with (
        Recorder(tmp_path / "a.jsonl") as recorder,
        pytest.raises(ValueError, match=r"shape \[10\], got \[3\]"),
    ):
        recorder.add(log, byzantine=torch.zeros(3, dtype=torch.bool))


HEADER = '{"type": "header", "schema": 1, "versions": {}, "configuration": {}}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line must be a header"),
        ("[1, 2]\n", "first line must be a header"),
        ('{"type": "header", "schema": 2}\n', "must be a record of schema 1, got 2"),
        (HEADER, "holds no rounds"),
        (HEADER + "nonsense\n{}\n", "line 2 is no JSON: 'nonsense'"),
        (HEADER + '{"type": "verdicts"}\n{"type": "round"}\n', "line 2 must be a round, got 'verdicts'"),
        (HEADER + '{"type": "round", "round": 0}\n', "is not a record: KeyError: 'copy_of'"),
    ],
)
def test_files_that_hold_something_else(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.jsonl")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no record"):
        read(tmp_path / "a.jsonl")
