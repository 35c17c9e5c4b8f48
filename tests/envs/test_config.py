"""Arguments of the environments: named once, checked, and passed on."""

import inspect
from dataclasses import fields

import gymnasium as gym
import pytest

from byzgym.envs import ByzantineAggregationEnv
from byzgym.envs.config import EnvConfig
from byzgym.simulation import Simulation
from byzgym.simulation.config import SimulationConfig
from byzgym.simulation.simulation import ENVIRONMENT_ARGUMENTS

ID = "ByzantineAggregation-v0"
TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "rounds": 10}


def make(**arguments):
    return gym.make(ID, **{**TINY, "pool_size": 8, **arguments})


def test_the_simulation_takes_the_same_arguments():
    own = {field.name for field in fields(EnvConfig)} - {field.name for field in fields(SimulationConfig)}
    assert own | {"render_mode"} == ENVIRONMENT_ARGUMENTS
    Simulation.make(**TINY, **dict.fromkeys(ENVIRONMENT_ARGUMENTS))  # the same arguments as gym.make


def test_the_signature_shows_all_arguments():
    shown = inspect.signature(ByzantineAggregationEnv).parameters
    assert list(shown) == [*(field.name for field in fields(EnvConfig)), "render_mode"]
    assert all(shown[field.name].default == field.default for field in fields(EnvConfig))
    described = ByzantineAggregationEnv.__doc__ or ""
    assert all(f"| `{name}` |" in described for name in shown)


def test_the_default_is_the_documented_one():
    env = gym.make(ID).unwrapped
    assert env.observation_space.shape == (11, 128)
    assert env.action_space.shape == (10,)
    setup = env.simulation.setup
    assert (setup.num_byzantine, setup.qv_size, setup.rounds) == ((7, 7), 10, 100)
    assert [attack.name for attack in setup.attacks] == ["gaussian", "sign_flip", "ipm", "alie", "random"]


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("render_mode", "hologram", "render_mode must be None or one of"),
        ("observation", "nope", "observation must be one of 'pooled'"),
        ("observation", ["norms", "nope"], "observation must be one of 'pooled'"),
        ("observation", [], "observation must be one of"),
        ("observation", [["norms"]], "observation must be one of"),
        ("action", "nope", "action must be one of 'credits', 'null_slot', 'rule', 'update'"),
        ("pool_size", 10**6, "pool_size must be an integer from 1 to"),
        ("pooling", "mean", "pooling must be one of 'sketch', 'blocks', got 'mean'"),
        ("evaluate_every", 0, "evaluate_every must be an integer of at least 1"),
        ("device", "abacus", "device must be"),
    ],
)
def test_bad_arguments_are_named(argument, value, message):
    with pytest.raises(ValueError, match=message):
        ByzantineAggregationEnv(**{**TINY, argument: value})


def test_misspelt_arguments_are_named():
    with pytest.raises(TypeError, match="did you mean 'num_workers'"):
        ByzantineAggregationEnv(num_wrokers=3)


@pytest.mark.parametrize("observation", ["pooled", "norms"])
def test_models_with_fewer_parameters_than_blocks(observation):
    env = gym.make(ID, **TINY, model="softmax", observation=observation)
    assert env.unwrapped.simulation.num_parameters == 27
    assert env.observation_space.shape == ((7, 27) if observation == "pooled" else (6,))
    assert make().observation_space.shape == (7, 8)
    assert gym.make(ID, **TINY).observation_space.shape == (7, 128)
