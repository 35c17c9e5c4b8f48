"""What `byzgym train` trains with."""

import importlib.util
import sys
from pathlib import Path

import pytest

from byzgym.experiments import training
from byzgym.integrations.sb3 import CutAtFloor

pytestmark = pytest.mark.global_rng
RECIPE = Path(__file__).parents[2] / "agents" / "ppo.py"


@pytest.fixture
def recipe(monkeypatch):
    spec = importlib.util.spec_from_file_location("ppo_recipe", RECIPE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ppo_recipe", module)  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_ppo_has_the_settings_of_the_recipe(recipe, tmp_path):
    config = recipe.Config(out=tmp_path)
    model = training.make("ppo", config.num_envs, 0, {"task": "synthetic", "observation": ["norms", "trust"]})
    assert config.beta == training.BETA
    assert isinstance(model.env, CutAtFloor)
    assert model.env.floor == config.reward_floor
    assert model.gamma == config.gamma
    assert (model.n_steps, model.batch_size) == (config.n_steps, config.batch_size)
    assert (model.n_epochs, model.ent_coef) == (config.n_epochs, config.ent_coef)
    for remaining in (1.0, 0.5):
        assert model.lr_schedule(remaining) == pytest.approx(remaining * config.learning_rate)
    assert float(model.policy.log_std.detach().unique()) == config.log_std_init


@pytest.mark.parametrize("num_envs", [1, 15, 64, 700, 2000])
@pytest.mark.filterwarnings("error")
def test_a_rollout_is_two_minibatches(num_envs):
    model = training.make("ppo", num_envs, 0, {"task": "synthetic", "observation": ["norms"]})
    assert model.n_steps * num_envs == 2 * model.batch_size
