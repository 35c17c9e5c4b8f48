"""SoftmaxCredits, for the single and the vector environment."""

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from byzgym.wrappers import SoftmaxCredits, VectorSoftmaxCredits, softmax_credits

TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "attack": "sign_flip", "rounds": 5}
ID = "ByzantineAggregation-v0"


def make(**arguments):
    return gym.make(ID, **{**TINY, **arguments})


def test_softmax_by_hand():
    credits = softmax_credits(np.log([1.0, 2.0, 5.0]), 1.0)
    np.testing.assert_allclose(credits, [0.125, 0.25, 0.625], rtol=1e-6)
    assert credits.dtype == np.float32
    huge = softmax_credits(np.array([1000.0, 999.0, -1000.0]), 5.0)
    assert huge.tolist() == pytest.approx([0.9933, 0.0067, 0], abs=1e-4)


@pytest.mark.parametrize(("beta", "mass"), [(1.0, 0.083), (5.0, 3.0e-5)])
def test_least_byzantine_mass(beta, mass):
    logits = np.r_[-np.ones(8), np.ones(12)]
    assert softmax_credits(logits, beta)[:8].sum() == pytest.approx(mass, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "size"), [({}, 6), ({"action": "null_slot"}, 7), ({"secure_group_size": 2}, 3)]
)
def test_softmax_credits_are_applied(arguments, size):
    env = SoftmaxCredits(make(**arguments), beta=2.0)
    assert env.action_space == gym.spaces.Box(-1, 1, (size,), np.float32)
    env.reset(seed=0)
    action = np.linspace(-1, 1, size, dtype=np.float32)
    credits = env.step(action)[4]["credits"]
    np.testing.assert_allclose(credits, softmax_credits(action, 2.0)[: len(credits)], atol=1e-6)


@pytest.mark.parametrize("beta", [0, -1.0, float("nan"), float("inf"), "5", True])
def test_beta_is_checked(beta):
    with pytest.raises(ValueError, match="beta"):
        SoftmaxCredits(make(), beta=beta)


@pytest.mark.parametrize("action", [np.full(6, np.nan), np.full(6, "1"), [[1], [2, 3]]])
def test_logits_are_checked(action):
    env = SoftmaxCredits(make())
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action must be"):
        env.step(action)


def test_softmax_needs_credits():
    for env in (SoftmaxCredits(make()), make(action="update"), make(action="rule", rules=["mean"])):
        with pytest.raises(ValueError, match="must be credits"):
            SoftmaxCredits(env)
    with pytest.raises(ValueError, match="must be credits"):
        VectorSoftmaxCredits(gym.make_vec(ID, num_envs=2, **TINY, action="rule", rules=["mean"]))


def test_vector_softmax_equals_single():
    venv = VectorSoftmaxCredits(gym.make_vec(ID, num_envs=2, **TINY), beta=3)
    single = SoftmaxCredits(make(), beta=3)
    assert venv.single_action_space == single.action_space
    venv.reset(seed=4)
    single.reset(seed=5)
    action = np.linspace(-1, 1, 6, dtype=np.float32)
    together = venv.step(np.stack([action, action]))
    np.testing.assert_allclose(together[0][1], single.step(action)[0], rtol=1e-4, atol=1e-5)


def test_spec_survives_json():
    env = SoftmaxCredits(make(), beta=np.float32(2.5))
    assert json.loads(env.spec.to_json())["additional_wrappers"][-1]["kwargs"] == {"beta": 2.5}
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.action_space == env.action_space
    env.reset(seed=1)
    again.reset(seed=1)
    action = np.linspace(1, -1, 6, dtype=np.float32)
    np.testing.assert_allclose(env.step(action)[0], again.step(action)[0], rtol=1e-4, atol=1e-5)
