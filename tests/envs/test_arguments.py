"""Arguments of the environments: they reach the simulation, have its defaults, and are named when bad."""

import inspect

import gymnasium as gym
import pytest

import byzgym
from byzgym.simulation.config import SimulationConfig, resolve

TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "rounds": 10}


def make(**arguments):
    return gym.make("ByzantineAggregation-v0", **{**TINY, "pool_size": 8, **arguments})


def described(value):
    """Type and fields of an object, for comparison."""
    return (type(value).__name__, vars(value)) if hasattr(value, "__dict__") else value


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("num_workers", 8, "num_workers"),
        ("num_byzantine", (1, 3), "num_byzantine"),
        ("attack", "ipm", "attack_names"),
        ("roles", {"name": "pretense", "until": 3}, "roles"),
        ("partition", {"name": "dirichlet", "alpha": 2.0}, "partition"),
        ("batch_size", 3, "batch_size"),
        ("learning_rate", 0.7, "learning_rate"),
        ("momentum", 0.5, "momentum"),
        ("worker_momentum", 0.5, "worker_momentum"),
        ("qv_size", 4, "qv_size"),
        ("qv_source", "train", "draw_qv"),
        ("secure_group_size", 2, "secure_group_size"),
        ("rounds", 7, "rounds"),
    ],
)
def test_arguments_reach_the_simulation(name, value, field):
    settings = make(**{name: value}).unwrapped.simulation.setup
    found = described(getattr(settings, field))
    assert found == described(getattr(resolve(**{**TINY, name: value}), field))
    assert found != described(getattr(resolve(**TINY), field))


def test_task_model_and_device_reach_the_simulation():
    simulation = make(task={"name": "synthetic", "num_classes": 4}, model="softmax").unwrapped.simulation
    assert simulation.setup.task.num_classes == 4
    assert simulation.num_parameters == 4 * (simulation.setup.task.train[0][0].numel() + 1)
    with pytest.raises(ValueError, match="device must be"):
        make(device="abacus")


def test_defaults_are_those_of_the_simulation_and_of_each_other():
    single = inspect.signature(byzgym.envs.ByzantineAggregationEnv.__init__).parameters
    vector = inspect.signature(byzgym.envs.ByzantineAggregationVectorEnv.__init__).parameters
    for name, parameter in inspect.signature(resolve).parameters.items():
        assert single[name].default == parameter.default, name
    for name in ("observation", "pool_size", "action", "evaluate_every", "render_mode"):
        assert single[name].default == vector[name].default


def test_the_default_environment_is_the_documented_one():
    env = gym.make("ByzantineAggregation-v0").unwrapped
    assert env.observation_space.shape == (11, 32)
    assert env.action_space.shape == (10,)
    settings = env.simulation.setup
    assert (settings.num_byzantine, settings.qv_size, settings.rounds) == ((7, 7), 10, 100)
    assert settings.attack_names == ("gaussian", "sign_flip", "ipm", "alie", "random")


def test_unknown_render_mode_and_observation_are_named():
    with pytest.raises(ValueError, match="render_mode must be None or one of"):
        byzgym.envs.ByzantineAggregationEnv(**TINY, render_mode="hologram")
    with pytest.raises(ValueError, match="observation must be one of 'pooled'"):
        make(observation="nope")
    with pytest.raises(ValueError, match="observation must be one of 'pooled'"):
        make(observation=["norms", "nope"])
    with pytest.raises(ValueError, match="observation must be one of"):
        make(observation=[])
    with pytest.raises(ValueError, match="observation must be one of"):
        make(observation=[["norms"]])
    with pytest.raises(ValueError, match="action must be one of 'credits', 'null_slot'"):
        make(action="nope")
    with pytest.raises(ValueError, match="pool_size must be an integer from 1 to"):
        make(pool_size=10**6)
    with pytest.raises(ValueError, match="evaluate_every must be an integer of at least 1"):
        make(evaluate_every=0)


@pytest.mark.parametrize("observation", ["pooled", "norms"])
def test_models_with_fewer_parameters_than_blocks(observation):
    env = gym.make("ByzantineAggregation-v0", **TINY, model="softmax", observation=observation)
    assert env.unwrapped.simulation.num_parameters == 27
    assert env.observation_space.shape == ((7, 27) if observation == "pooled" else (6,))
    assert make().observation_space.shape == (7, 8)
    assert gym.make("ByzantineAggregation-v0", **TINY).observation_space.shape == (7, 32)


@pytest.mark.parametrize("options", ["abc", 5, [1]])
def test_options_of_the_vector_environment_are_checked(options):
    env = gym.make_vec("ByzantineAggregation-v0", 2, **TINY)
    with pytest.raises(TypeError, match="options must be a mapping or None"):
        env.reset(options=options)
