import dataclasses
import json

import pytest

from byzgym import attacks
from byzgym.experiments import Comparison, identity
from byzgym.simulation.config import RunConfig

SMALL = Comparison(task="synthetic", rounds=20, policies="mean", attacks="ipm")
CHANGES = {
    "task": "synthetic:seed=3",
    "model": "softmax",
    "num_workers": 12,
    "cohort_size": 5,
    "roles": "randomized:period=3",
    "partition": "dirichlet:alpha=0.1",
    "batch_size": 3,
    "local_steps": 2,
    "learning_rate": {"initial": 0.1, "schedule": "cosine"},
    "momentum": 0.5,
    "worker_momentum": 0.5,
    "weight_decay": 0.5,
    "qv_size": 3,
    "qv_source": "train",
    "qv_period": 5,
    "secure_group_size": 2,
    "num_servers": 2,
    "rounds": 30,
    "one_by_one": True,
    "device": "cpu:0",
}


def test_every_argument_of_a_run_is_part_of_its_key():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(RunConfig)}
    changed = [SMALL, *(dataclasses.replace(SMALL, **{name: value}) for name, value in CHANGES.items())]
    changed.append(dataclasses.replace(SMALL, evaluate_every=7))
    keys = {identity.key(identity.setting(comparison)) for comparison in changed}
    assert len(keys) == len(changed)


def test_a_default_is_what_it_stands_for():
    setting = identity.setting(SMALL)
    named = {name: setting[name] for name in ("model", "batch_size", "learning_rate", "cohort_size")}
    assert None not in named.values()
    assert identity.setting(dataclasses.replace(SMALL, **named, evaluate_every=1)) == setting
    json.dumps(setting)


def test_who_plays_is_no_part_of_a_setting():
    other = dataclasses.replace(SMALL, policies=("krum",), attacks=("alie",), seeds=3, num_byzantine=(2,))
    assert identity.setting(other) == identity.setting(SMALL)


@pytest.mark.parametrize("who", ["policy", "attack", "num_byzantine", "seed"])
def test_who_plays_is_part_of_a_run(who):
    given = {"policy": "mean", "attack": "ipm", "num_byzantine": 3, "seed": 0}
    setting = identity.setting(SMALL)
    runs = [identity.run(setting, {}, **{**given, **change}) for change in ({}, {who: 1})]
    assert identity.key(runs[0]) != identity.key(runs[1])


def test_the_code_is_part_of_a_setting(monkeypatch):
    before = identity.key(identity.setting(SMALL))
    monkeypatch.setattr(identity, "code", lambda: "other")
    assert identity.key(identity.setting(SMALL)) != before


def test_files_that_names_mention(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "my,own.zip"
    names = ["model:model.zip", f"model:'{model}'", "ensemble:members=krum+model:model.zip"]
    (tmp_path / "model.zip").write_text("1")
    model.write_text("1")
    before = [identity.digests([name]) for name in names]
    assert all(len(found) == 1 for found in before)
    for path in (tmp_path / "model.zip", model):
        path.write_text("2")
    for name, old in zip(names, before, strict=True):
        assert identity.digests([name]) != old
    assert identity.digests(["krum", "ipm:epsilon=1.0"]) == {}


def test_code_of_the_user_that_names_mention(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for scale in (2, 3):
        module = tmp_path / f"mine_{scale}.py"
        module.write_text(
            f"def factory():\n    return lambda gradients, byzantine, context: {scale} * gradients"
        )
        attacks.register("test_own", __import__(f"mine_{scale}").factory)
        found.append(identity.digests(["mixture:attacks=test_own+ipm"]))
    assert [list(one) for one in found] == [["attack test_own"]] * 2
    assert found[0] != found[1]
