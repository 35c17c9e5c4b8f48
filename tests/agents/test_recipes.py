"""The recipes in agents/ run, and `byzgym train` and rl-zoo3 have their settings."""

import csv
import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from byzgym.integrations.sb3 import evaluation, learners
from byzgym.integrations.sb3.config import TrainingConfig

pytestmark = pytest.mark.global_rng
FOLDER = Path(__file__).parents[2] / "agents"
NAMES = ["ppo", "sac", "recurrent_ppo"]
DEFAULTS = {"ent_coef": 0.0}
"""What PPO takes where its settings are silent."""
SHORT = {"seeds": 1, "num_envs": 2, "evaluation_episodes": 2, "rounds": 3}
"""Settings with which a recipe takes some seconds."""


@pytest.fixture
def load(monkeypatch):
    """Imports a recipe as Python does when it runs the script: its folder comes first."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def loaded(name):
        if name == "recurrent_ppo":
            pytest.importorskip("sb3_contrib")
        return importlib.import_module(name)

    yield loaded
    for name in ("recipe", *NAMES):
        sys.modules.pop(name, None)


def made(config):
    """The learner of a recipe, in two environments of its kind."""
    return learners.make(replace(config.training(seed=0), num_envs=2))


def same_networks(model, other):
    sizes = [
        {name: value.shape for name, value in each.policy.state_dict().items()} for each in (model, other)
    ]
    return type(model.policy) is type(other.policy) and sizes[0] == sizes[1]


def settings_of(model, names):
    """What a learner was made with, as far as one can see it."""
    found = {name: getattr(model, name) for name in names if name not in ("learning_rate", "policy")}
    return {**found, "rates": [pytest.approx(model.lr_schedule(part)) for part in (1.0, 0.5, 0.1)]}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_writes_results_of_controls_and_learner(load, name, tmp_path):
    config = load(name).Config(out=tmp_path, total_steps=64, evaluate_every=32, **SHORT)
    for short, value in {"learning_starts": 8, "n_steps": 8, "batch_size": 16}.items():
        if hasattr(config, short):
            setattr(config, short, value)
    sys.modules["recipe"].run(config)
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    controls = ["uniform", "fixed", "random", "trust", "gaa", "oracle (reference)"]
    assert [row["policy"] for row in rows] == [*controls, name, name, name]
    assert [int(row["steps"]) for row in rows if row["policy"] == name] == [0, 32, 64]
    assert float(rows[0]["byzantine_credit"]) == pytest.approx(0.7)
    assert float(rows[5]["byzantine_credit"]) == 0
    assert (tmp_path / "learning_curve.png").stat().st_size > 0
    model = tmp_path / "seed_0" / "model.zip"
    assert type(learners.read(model)) is learners.learner_class(name)
    assert TrainingConfig.beside(model).environment == config.environment


@pytest.mark.parametrize("name", NAMES)
def test_byzgym_train_has_the_settings_of_a_recipe(load, name, tmp_path):
    recipe = load(name).Config(out=tmp_path)
    training = recipe.training(seed=0)
    held = learners.settings(name, recipe.num_envs, training.environment)
    assert {**DEFAULTS, **held} == {**DEFAULTS, **training.settings}
    as_train = TrainingConfig(algorithm=name, environment={})
    assert training.softmax_beta == learners.softmax_beta(training.environment)
    assert training.reward_floor == as_train.reward_floor


def test_a_recipe_trains_on_episodes_that_no_evaluation_plays(load, tmp_path):
    trained = made(load("ppo").Config(out=tmp_path)).env
    seeds = trained.unwrapped._seeds
    assert min(seeds) >= learners.FIRST_SEED > evaluation.FIRST_SEED


def test_byzantine_credit_is_that_of_first_episodes(load):
    load("ppo")
    recipe = sys.modules["recipe"]
    env = evaluation.environments(2, None, {"task": "synthetic", "rounds": 2, "num_byzantine": 7})
    watched = recipe.ByzantineCredit(env)
    env.seed(0)
    watched.reset()
    byzantine = watched.byzantine
    for credits in (byzantine / 7, 1 - byzantine, byzantine / 7):  # the last round is of another episode
        watched.step(credits.astype("float32"))
    assert (watched.sums / watched.rounds).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("name", NAMES)
def test_rl_zoo3_has_the_settings_of_a_recipe(load, name, tmp_path):
    recipe = load(name).Config(out=tmp_path)
    held = yaml.safe_load((FOLDER / "rl_zoo3" / f"{name}.yml").read_text())["ByzantineAggregation-v0"]
    assert held.pop("env_kwargs").items() <= recipe.environment.items()
    assert held.pop("env_wrapper") == [{"byzgym.wrappers.SoftmaxCredits": {"beta": recipe.beta}}]
    floor = {"byzgym.integrations.sb3.CutAtFloor": {"floor": recipe.reward_floor}}
    assert held.pop("vec_env_wrapper") == [floor]
    assert held.pop("n_envs") == recipe.num_envs
    assert held.pop("n_timesteps") == recipe.total_steps
    module, policy = held.pop("policy").rsplit(".", 1)
    rate = float(held.pop("learning_rate").removeprefix("lin_"))
    expected = made(recipe)
    model = learners.learner_class(name)(
        getattr(importlib.import_module(module), policy),
        expected.env,
        policy_kwargs=eval(held.pop("policy_kwargs"), {"dict": dict}),
        learning_rate=learners.Falling(rate),
        device="cpu",
        **held,
    )
    assert settings_of(model, held) == settings_of(expected, held)
    assert same_networks(model, expected)
    assert model.policy_kwargs == expected.policy_kwargs


@pytest.mark.parametrize(("name", "value"), [("seeds", 0), ("evaluation_episodes", 0), ("total_steps", -1)])
def test_numbers_with_which_nothing_happens_are_refused(load, name, value, tmp_path):
    with pytest.raises(ValueError, match=rf"{name} must be .* got {value}"):
        load("ppo").Config(out=tmp_path, **{name: value})
