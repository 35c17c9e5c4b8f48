"""What `byzgym train` trains with, and models that it reads."""

import runpy
from pathlib import Path

import gymnasium as gym
import pytest
import stable_baselines3
from gymnasium import spaces

from byzgym.integrations.sb3 import CutAtFloor, training

pytestmark = pytest.mark.global_rng
RECIPE = Path(__file__).parents[2] / "agents" / "ppo.py"
SETTING = {"task": "synthetic", "rounds": 4, "attack": ["ipm"], "observation": ["norms"]}
ALGORITHMS = ["ppo", "a2c", "sac", "td3"]


@pytest.fixture
def env():
    return gym.make("ByzantineAggregation-v0", **SETTING)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Untrained models of all algorithms, whose actions are logits."""
    folder = tmp_path_factory.mktemp("models")
    for algorithm in ALGORITHMS:
        training.make(algorithm, 2, 0, SETTING).save(folder / algorithm)
    return folder


def test_ppo_has_the_settings_of_the_recipe(tmp_path):
    config = runpy.run_path(str(RECIPE), run_name="ppo")["Config"](out=tmp_path)
    arguments = {"task": "synthetic", "observation": ["norms", "trust"]}
    model = training.make("ppo", config.num_envs, 0, arguments)
    assert config.beta == training.BETA
    assert isinstance(model.env, CutAtFloor)
    assert model.env.floor == config.reward_floor
    for name in ("gamma", "n_steps", "batch_size", "n_epochs", "ent_coef"):
        assert getattr(model, name) == getattr(config, name)
    for remaining in (1.0, 0.5):
        assert model.lr_schedule(remaining) == pytest.approx(remaining * config.learning_rate)
    assert float(model.policy.log_std.detach().unique()) == config.log_std_init


@pytest.mark.parametrize("num_envs", [1, 15, 64, 700])
@pytest.mark.filterwarnings("error")
def test_a_rollout_is_two_minibatches(num_envs):
    model = training.make("ppo", num_envs, 0, {"task": "synthetic", "observation": ["norms"]})
    assert model.n_steps * num_envs == 2 * model.batch_size


@pytest.mark.parametrize("beta", [None, 2.0])
def test_beta_of_the_softmax(models, env, beta):
    _, wrapped = training.load(models / "ppo.zip", "ppo", env, beta)
    assert wrapped.beta == (training.BETA if beta is None else beta)


def test_beta_is_for_logits(tmp_path, env):
    path = tmp_path / "credits.zip"
    stable_baselines3.PPO("MultiInputPolicy", env, n_steps=2, batch_size=2).save(path)
    with pytest.raises(ValueError, match="softmax_beta is for a model whose actions are logits"):
        training.load(path, "ppo", env, 5.0)
    assert training.load(path, "ppo", env)[1] is env


def test_a_model_that_chooses_is_refused(tmp_path, env):
    class Choice(gym.ActionWrapper):
        action_space = spaces.Discrete(2)

    path = tmp_path / "choice.zip"
    stable_baselines3.PPO("MultiInputPolicy", Choice(env), n_steps=2, batch_size=2).save(path)
    with pytest.raises(ValueError, match=r"action_space Discrete\(2\), but the environment has Box"):
        training.load(path, "ppo", env)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("saved_by", ALGORITHMS)
def test_models_of_other_algorithms_are_refused(models, env, saved_by, algorithm):
    path = models / f"{saved_by}.zip"
    if saved_by == algorithm:
        assert training.load(path, algorithm, env)
        return
    message = f"is not a model that {algorithm} has saved: it is one of {saved_by}"
    with pytest.raises(ValueError, match=message):
        training.load(path, algorithm, env)


def test_what_is_no_model_is_refused(tmp_path, env):
    (tmp_path / "model.zip").write_text("no archive")
    with pytest.raises(ValueError, match="is not a model that ppo has saved"):
        training.load(tmp_path / "model.zip", "ppo", env)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        training.load(tmp_path / "nowhere.zip", "ppo", env)
