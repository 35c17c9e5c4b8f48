"""What `byzgym train` trains with, and the models that it reads."""

import random

import numpy as np
import pytest
import torch

from byzgym.integrations.sb3 import learners
from byzgym.integrations.sb3.config import TrainingConfig

pytestmark = pytest.mark.global_rng
SETTING = {"task": "synthetic", "rounds": 4, "attack": ["ipm"], "observation": ["norms"]}
ALGORITHMS = [*learners.SETTINGS]


def config(algorithm="ppo", num_envs=2, **arguments):
    if algorithm in ("recurrent_ppo", "tqc"):
        pytest.importorskip("sb3_contrib")
    environment = {**SETTING, **arguments}
    settings = learners.settings(algorithm, num_envs, environment)
    if "buffer_size" in settings:
        settings |= {"buffer_size": 100, "batch_size": 8}
    beta = learners.softmax_beta(environment)
    given = {"settings": settings, "softmax_beta": beta, "num_envs": num_envs}
    return TrainingConfig(algorithm=algorithm, environment=environment, **given)


@pytest.fixture
def save(tmp_path):
    """Saves an untrained model of an algorithm."""

    def saved(algorithm):
        path = tmp_path / f"{algorithm}.zip"
        learners.make(config(algorithm)).save(path)
        return path

    return saved


@pytest.mark.parametrize("num_envs", [1, 15, 64, 700])
def test_a_rollout_is_two_minibatches(num_envs):
    settings = learners.settings("ppo", num_envs, SETTING)
    assert settings["n_steps"] * num_envs == 2 * settings["batch_size"]


@pytest.mark.parametrize(("num_envs", "expected"), [(1, 1), (32, 2), (64, 4)])
@pytest.mark.parametrize("algorithm", ["sac", "td3", "tqc"])
def test_gradient_steps_grow_with_the_environments(algorithm, num_envs, expected):
    assert learners.settings(algorithm, num_envs, SETTING)["gradient_steps"] == expected


def test_every_training_has_its_own_environments():
    seeds = []
    for seed in (0, 1):
        model = learners.make(TrainingConfig(**{**vars(config()), "seed": seed}))
        model.env.reset()
        seeds += model.env.get_attr("np_random_seed")[0]
    assert len(set(seeds)) == 4
    assert min(seeds) >= learners.FIRST_SEED > 2**32


CASES = [*((algorithm, ["trust"]) for algorithm in ALGORITHMS), ("ppo", "all"), ("ppo", "pooled")]
CASES += [("sac", "pooled"), ("recurrent_ppo", "pooled")]


@pytest.mark.parametrize(("algorithm", "observation"), CASES)
def test_all_learners_learn(algorithm, observation):
    model = learners.make(config(algorithm, observation=observation))
    model.learning_starts = 4  # of those that have it
    model.n_steps = 4
    if hasattr(model, "rollout_buffer"):
        model._setup_model()
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    model.learn(16)
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "recurrent_ppo"])
def test_rules_are_chosen(algorithm):
    model = learners.make(config(algorithm, action="rule", rules=["mean", "median"]))
    assert model.action_space.n == 2


@pytest.mark.parametrize(
    ("algorithm", "arguments", "message"),
    [
        ("dqn", {}, "algorithm must be one of ppo, .*, got 'dqn'"),
        ("sac", {"action": "rule", "rules": ["mean"]}, "algorithm must be ppo, a2c or recurrent_ppo .*'sac'"),
        ("ppo", {"action": "update"}, "action must be 'credits', 'null_slot' or 'rule' .*, got 'update'"),
    ],
)
def test_what_cannot_be_trained(algorithm, arguments, message):
    with pytest.raises(ValueError, match=message):
        learners.settings(algorithm, 2, {**SETTING, **arguments})


@pytest.mark.parametrize("saved_by", ALGORITHMS)
def test_the_algorithm_is_found_out(save, saved_by):
    assert type(learners.read(save(saved_by))) is learners.learner_class(saved_by)


@pytest.mark.parametrize(
    ("saved_by", "algorithm"), [("ppo", "a2c"), ("a2c", "ppo"), ("sac", "td3"), ("td3", "sac")]
)
def test_models_of_other_algorithms_are_refused(save, saved_by, algorithm):
    path = save(saved_by)
    assert learners.read(path, saved_by)
    with pytest.raises(
        ValueError, match=f"is not a model that {algorithm} has saved: it is one of {saved_by}"
    ):
        learners.read(path, algorithm)


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "model.zip").write_text("no archive")
    with pytest.raises(ValueError, match="is not a model that ppo has saved"):
        learners.read(tmp_path / "model.zip", "ppo")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        learners.read(tmp_path / "nowhere.zip")
    with pytest.raises(ValueError, match=r"algorithm must be one of .*ppo.*, got 'nobody'"):
        learners.learner_class("nobody")


def test_without_sb3_contrib(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sb3_contrib", None)
    assert learners.learner_class("sac")
    with pytest.raises(
        ImportError, match=r"'tqc' is not in stable-baselines3.* pip install 'byzgym\[train\]'"
    ):
        learners.learner_class("tqc")


def test_reading_moves_no_random_generator(save):
    path = save("ppo")

    def states():
        of_numpy = np.random.get_state()[1].tolist()  # noqa: NPY002
        return torch.get_rng_state().tolist(), of_numpy, random.getstate()

    before = states()
    learners.read(path)
    assert states() == before
