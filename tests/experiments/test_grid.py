import os
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from byzgym import agents, attacks
from byzgym.experiments import compare, play
from byzgym.experiments.engine import Here, Processes
from byzgym.experiments.grid import Grid
from byzgym.experiments.reading import read_all
from byzgym.experiments.results import Results
from byzgym.experiments.store import Store, unpack

KILLED = Path(__file__).with_name("killing.py")
VARY = ["seconds", "finished", "machine"]


def rows(folder):
    """What a store holds, without what no two runs have in common."""
    with Store(folder) as store:
        table = store.table(credits=True).sort_values("key", ignore_index=True)
    table["credits"] = [None if packed is None else content(packed) for packed in table["credits"]]
    return table.drop(columns=VARY)


def content(packed):
    return {name: values.tolist() for name, values in unpack(packed).items()}


def assert_same(one, other):
    pd.testing.assert_frame_equal(rows(one), rows(other), check_exact=True)


def test_a_finished_comparison_is_not_played_again(small, tmp_path, monkeypatch):
    first = compare(small(policies="mean", rounds=3), tmp_path)
    before = rows(tmp_path)
    monkeypatch.setattr(play, "play_batch", None)
    monkeypatch.setattr(play, "begin", None)
    again = compare(small(policies="mean", rounds=3), tmp_path)
    pd.testing.assert_frame_equal(first.runs, again.runs)
    pd.testing.assert_frame_equal(before, rows(tmp_path))


def test_what_is_added_later_is_shown_with_the_rest(small, tmp_path, monkeypatch):
    sizes = []
    play_batch = play.play_batch

    def counting(comparison, policy, f, progress, members):
        sizes.append((policy, f, len(members)))
        return play_batch(comparison, policy, f, progress, members)

    monkeypatch.setattr(play, "play_batch", counting)
    given = {"rounds": 3, "policies": ("mean", "krum"), "attacks": "ipm"}
    compare(small(**given), tmp_path)
    compare(small(**given, seeds=3), tmp_path)
    compare(small(**{**given, "policies": "median", "attacks": ("ipm", "zero")}, num_byzantine=3), tmp_path)
    assert sizes == [("mean", 7, 2), ("krum", 7, 2), ("mean", 7, 1), ("krum", 7, 1), ("median", 3, 4)]
    results = Results.read(tmp_path)
    assert results.comparison.policies == ("mean", "krum", "median")
    assert results.comparison.num_byzantine == (7, 3)
    assert results.comparison.seeds == 3
    assert results.unfinished == ""
    assert len(results.runs) == 2 * 3 + 2 * 2


def test_other_settings_do_not_mix(small, tmp_path):
    for rounds in (3, 4, 3):
        compare(small(policies="mean", rounds=rounds), tmp_path)
        assert set(Results.read(tmp_path).runs["rounds"]) == {rounds}
    assert len(rows(tmp_path)) == 8


def test_overwriting_forgets(small, tmp_path):
    compare(small(policies="mean", rounds=3), tmp_path)
    compare(small(policies="krum", rounds=3), tmp_path, overwrite=True)
    assert set(rows(tmp_path)["policy"]) == {"krum"}


def test_interrupted_runs_end_with_the_same_numbers(small, tmp_path, monkeypatch):
    compare(small(), tmp_path / "whole")
    play_batch, played = play.play_batch, []

    def interrupted(comparison, policy, *rest):
        if len(played) == 1:
            played.append("interrupted")
            raise KeyboardInterrupt
        played.append(policy)
        return play_batch(comparison, policy, *rest)

    monkeypatch.setattr(play, "play_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(small(), tmp_path / "cut")
    results = Results.read(tmp_path / "cut")
    assert set(results.runs["policy"]) == {"mean"}
    assert results.unfinished == "4 of 12 runs"
    compare(small(), tmp_path / "cut")
    assert played == ["mean", "interrupted", "krum", "median"]
    assert_same(tmp_path / "whole", tmp_path / "cut")


class Failing(attacks.SignFlip):
    """Fails in its third round where the parameters are those of seed 1."""

    def __call__(self, gradients, byzantine, context):
        if int(np.max(np.asarray(context.round))) == 2 and gradients.shape[0] >= Failing.smallest:
            raise ArithmeticError("the third round is too much")
        return super().__call__(gradients, byzantine, context)


@pytest.fixture
def failing():
    attacks.register("test_failing", Failing)
    Failing.smallest = 1


def test_an_error_costs_only_the_runs_that_have_it(small, tmp_path, failing, monkeypatch):
    comparison = small(policies=("mean", "krum"), attacks=("ipm", "test_failing"), rounds=5)
    results = compare(comparison, tmp_path)
    assert results.unfinished == "4 of 8 runs, 4 failed"
    assert set(results.runs["attack"]) == {"ipm"}
    assert set(results.failed["attack"]) == {"test_failing"}
    (error,) = set(results.failed["error"])
    assert error.startswith("ArithmeticError: the third round is too much (raised by attack")
    assert results.counts("mean", "test_failing", 7) == (0, 2)
    monkeypatch.setattr(Failing, "smallest", 99)
    results = compare(comparison, tmp_path)
    assert results.unfinished == ""
    assert results.failed.empty
    assert len(rows(tmp_path)) == 8


class Leaving(attacks.SignFlip):
    def __call__(self, gradients, byzantine, context):
        if int(context.round[0]) == 2:
            sys.exit(3)
        return super().__call__(gradients, byzantine, context)


def test_code_that_ends_python_is_an_error_like_others(small, tmp_path):
    attacks.register("test_leaving", Leaving)
    comparison = small(policies="mean", attacks=("ipm", "test_leaving"), rounds=5, seeds=1)
    results = compare(comparison, tmp_path)
    assert results.unfinished == "1 of 2 runs, 1 failed"
    assert results.failed["error"].tolist() == ["SystemExit: 3"]


def test_agents_are_played_before_rules(small, tmp_path):
    played = []
    comparison = small(policies=("mean", "gaa", "nnm+krum", "oracle"), attacks="ipm", seeds=1, rounds=2)
    compare(comparison, tmp_path, progress=lambda policy, rounds: played.append(policy))
    assert list(dict.fromkeys(played)) == ["gaa", "oracle", "mean", "nnm+krum"]


def test_progress_counts_every_round_once(small, tmp_path, failing):
    told = []
    comparison = small(policies=("mean", "krum"), attacks=("ipm", "test_failing"), rounds=5)
    compare(comparison, tmp_path, progress=lambda policy, rounds: told.append((policy, rounds)))
    assert {name: sum(n for policy, n in told if policy == name) for name in ("mean", "krum")} == {
        "mean": 5,
        "krum": 5,
    }
    assert min(rounds for _, rounds in told) > 0


def test_a_code_of_another_version_plays_anew(small, tmp_path, monkeypatch):
    from byzgym.experiments import identity

    compare(small(policies="mean", rounds=3), tmp_path)
    monkeypatch.setattr(identity, "code", lambda: "0.0+other")
    results = compare(small(policies=("mean", "krum"), rounds=3), tmp_path)
    assert len(results.runs) == 8
    assert rows(tmp_path)["code"].value_counts()["0.0+other"] == 8
    with Store(tmp_path) as store:
        assert len(read_all(store)) == 1


def test_code_that_has_changed_plays_anew(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    comparison = small(policies=("mean", "test_own"), rounds=3)
    found = []
    for rule in ("median", "krum"):
        path = tmp_path / f"{rule}.py"
        path.write_text(f"from byzgym import agents\ndef factory(): return agents.make('{rule}')\n")
        spec = spec_from_file_location(rule, path)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        agents.register("test_own", module.factory)
        found.append(compare(comparison, tmp_path).runs)
    assert len(found[1]) == len(found[0]) == 8
    assert len(rows(tmp_path)) == 4 + 2 * 4  # those of mean once
    of = [runs[runs["policy"] == "test_own"]["qv_loss"].tolist() for runs in found]
    assert of[0] != of[1]


def test_the_order_changes_nothing(small, tmp_path):
    compare(small(), tmp_path / "forward")
    grid = Grid.plan([small()], tmp_path / "back")
    with grid.open() as store:
        grid.tasks.reverse()
        grid.play(store, Here(), lambda policy, rounds: None)
    assert_same(tmp_path / "forward", tmp_path / "back")
    forward, back = (Results.read(tmp_path / name) for name in ("forward", "back"))
    pd.testing.assert_frame_equal(forward.runs.drop(columns="seconds"), back.runs.drop(columns="seconds"))


@pytest.mark.slow
def test_processes_change_nothing(small, tmp_path):
    agents.register("test_mine", lambda: agents.make("median"))  # known in this process only
    comparison = small(policies=("mean", "krum", "test_mine"))
    compare(comparison, tmp_path / "here")
    compare(comparison, tmp_path / "processes", engine=Processes(2))
    assert_same(tmp_path / "here", tmp_path / "processes")


@pytest.mark.slow
def test_what_cannot_be_sent_says_so(small, tmp_path):
    lock = __import__("threading").Lock()
    agents.register("test_locked", lambda: agents.make("median") if lock else None)
    with pytest.raises(TypeError, match=r"agent 'test_locked' cannot be sent .* \(--processes 1\)"):
        compare(small(policies=("test_locked", "mean")), tmp_path, engine=Processes(2))


def start(folder, processes=1, *changes):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, KILLED, folder, str(processes), *changes]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def pids(folder):
    return {int(path.name) for path in (folder / "pids").iterdir()} if (folder / "pids").exists() else set()


def until(condition, seconds=100):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def nobody_alive(workers):
    return not any(alive(pid) for pid in workers)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with the runs of `killing.py`, which nobody has killed."""
    folder = tmp_path_factory.mktemp("whole") / "runs"
    process = start(folder)
    assert process.communicate()[0] == "\n"
    assert process.returncode == 0
    return folder


def without_folder(folder):
    """The rows, in which the folder's name stands; keys depend on it, too."""
    table = rows(folder).drop(columns=["key", "setting", "unit", "configuration", "threat_model"])
    table["attack"] = [attack.split(":")[0] for attack in table["attack"]]
    return table.sort_values(["policy", "num_byzantine", "attack", "seed"], ignore_index=True)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_driver_that_is_killed_loses_nothing(whole, tmp_path, processes):
    generator = np.random.default_rng(processes)
    for _ in range(3):
        process = start(tmp_path, processes)
        workers = until(lambda: pids(tmp_path))
        time.sleep(generator.uniform(0, 3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        workers = pids(tmp_path)
        until(partial(nobody_alive, workers), 60)  # nobody plays on alone
    process = start(tmp_path, processes)
    assert process.communicate()[0] == "\n"
    pd.testing.assert_frame_equal(without_folder(tmp_path), without_folder(whole), check_exact=True)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(whole, tmp_path):
    process = start(tmp_path, 2)
    # The driver itself tries every policy once before it starts workers.
    first = until(lambda: pids(tmp_path) - {process.pid})
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    until(lambda: pids(tmp_path) - {process.pid} - first)
    assert process.communicate()[0] == "\n"
    pd.testing.assert_frame_equal(without_folder(tmp_path), without_folder(whole), check_exact=True)


@pytest.mark.slow
def test_two_drivers_share_a_folder(whole, tmp_path):
    both = [start(tmp_path) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == ["\n", "\n"]
    pd.testing.assert_frame_equal(without_folder(tmp_path), without_folder(whole), check_exact=True)


class Deadly(attacks.SignFlip):
    def __init__(self, parent):
        super().__init__()
        self.parent = parent

    def __call__(self, gradients, byzantine, context):
        if os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(gradients, byzantine, context)


@pytest.mark.slow
def test_a_unit_that_kills_its_process_is_given_up(small, tmp_path):
    attacks.register("test_deadly", partial(Deadly, os.getpid()))
    comparison = small(policies=("mean", "krum"), attacks="test_deadly", seeds=1, rounds=2)
    results = compare(comparison, tmp_path, engine=Processes(2))
    assert results.unfinished == "0 of 2 runs, 2 failed"
    assert "its process ended by signal 9 3 times" in results.failed["error"][0]


@pytest.mark.slow
def test_ray_changes_nothing(small, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: pip install byzgym[ray]")
    from byzgym.experiments.ray_engine import OnRay

    agents.register("test_mine", lambda: agents.make("median"))
    comparison = small(policies=("mean", "krum", "test_mine"))
    compare(comparison, tmp_path / "here")
    compare(comparison, tmp_path / "ray", engine=OnRay())
    assert_same(tmp_path / "here", tmp_path / "ray")
