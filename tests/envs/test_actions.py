"""Actions: how they become credits, which are refused, and vectors that are applied instead."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from byzgym.envs.actions import CreditActions

TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "rounds": 10, "pool_size": 8}
FIRST = np.eye(6, dtype=np.float32)[0]
ZERO = np.zeros(6, np.float32)


def make(**arguments):
    return gym.make("ByzantineAggregation-v0", **{**TINY, **arguments})


def test_actions_are_normalised_onto_the_simplex():
    env = make(attack="none")
    env.reset(seed=0)
    point = np.array([0.5, 0.25, 0.125, 0.0625, 0.03125, 0.03125], np.float32)
    for action, credits in [
        (point, point),
        (point / 2, point),
        (point * 7, point),
        (np.zeros(6), np.full(6, 1 / 6)),
        (np.eye(6)[2], np.eye(6)[2]),
    ]:
        info = env.step(action.astype(np.float32))[4]
        np.testing.assert_allclose(info["credits"], credits, rtol=1e-6)
    assert np.array_equal(env.step(point)[4]["credits"], point)  # to the last bit


def test_null_slot_lets_credits_sum_to_less_than_one():
    env = make(attack="none", action="null_slot")
    env.reset(seed=0)
    info = env.step(np.array([0.1, 0.2, 0, 0, 0, 0, 0.7], np.float32))[4]
    np.testing.assert_allclose(info["credits"], [0.1, 0.2, 0, 0, 0, 0], rtol=1e-6)
    info = env.step(np.array([0, 0, 0, 0, 0, 0, 1], np.float32))[4]
    assert info["update_norm"] == 0


def test_credits_weigh_the_gradients():
    env = make()
    env.reset(seed=0)
    gradients = env.unwrapped.view.gradients[0].clone()
    theta = env.unwrapped.view.theta[0].clone()
    credits = torch.tensor([0.5, 0.3, 0.2, 0, 0, 0])
    env.step(credits.numpy())
    rate = env.unwrapped.view.learning_rate[0]
    torch.testing.assert_close(env.unwrapped.view.theta[0], theta - rate * (credits @ gradients))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(5, np.float32), r"action must have shape \(6,\) per environment, got \(5,\)"),
        (np.zeros((1, 6), np.float32), "action must have shape"),
        (np.float32(1), "action must have shape"),
        (np.array([np.nan, 1, 1, 1, 1, 1], np.float32), "action must be finite and not negative, got"),
        (np.array([np.inf, 1, 1, 1, 1, 1], np.float32), "action must be finite and not negative"),
        (np.array([-0.5, 1, 1, 1, 1, 1], np.float32), "action must be finite and not negative"),
    ],
)
def test_bad_actions_are_named_and_change_nothing(action, message):
    env = make()
    env.reset(seed=0)
    state = env.unwrapped.simulation.snapshot()["state"]
    with pytest.raises(ValueError, match=message):
        env.unwrapped.step(action)
    after = env.unwrapped.simulation.snapshot()["state"]
    for owner in state:
        for name, value in state[owner].items():
            assert torch.equal(value, after[owner][name]), (owner, name)
    assert torch.equal(env.unwrapped.view.round, torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    "action",
    [
        None,
        "credits",
        np.array(["1"] * 6),
        np.array([{}] * 6),
        np.array([1.0] * 5 + [None]),
        np.ones(6, complex),
    ],
)
def test_actions_that_are_no_numbers_are_named(action):
    env = make().unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(action)


@pytest.mark.parametrize("entry", [1, True, 1e308, np.float16(3)])
def test_equal_numbers_of_any_kind_and_size_are_uniform_credits(entry):
    env = make(attack="none").unwrapped
    env.reset(seed=0)
    info = env.step(np.full(6, entry))[4]
    np.testing.assert_allclose(info["credits"], 1 / 6, rtol=1e-6)


def test_sums_of_almost_one_and_entries_of_almost_zero():
    actions, cpu = CreditActions("credits", 4), torch.device("cpu")
    near = np.full((1, 4), 0.251)
    assert actions.decode(near, 1, cpu)[0].tolist() == pytest.approx([0.25] * 4, rel=1e-6)
    nearer = np.full((1, 4), 0.25) + 1e-7
    assert np.array_equal(actions.decode(nearer, 1, cpu).numpy(), nearer.astype(np.float32))
    assert (actions.decode(np.array([[-1e-7, 0.5, 0.5, 0.0]]), 1, cpu) >= 0).all()


def test_all_zero_with_a_null_slot_gives_the_slot_its_share():
    actions = CreditActions("null_slot", 4)
    credits = actions.decode(np.zeros((1, 5)), 1, torch.device("cpu"))
    assert credits[0].tolist() == pytest.approx([0.2] * 4)


def test_with_a_null_slot_the_credit_of_rejected_rows_is_lost():
    actions = CreditActions("null_slot", 3)
    credits, rejected = torch.tensor([[0.2, 0.3, 0.1]]), torch.tensor([[True, False, False]])
    assert actions.accepted(credits, rejected)[0].tolist() == pytest.approx([0, 0.3, 0.1])


def test_a_vector_is_applied_in_place_of_an_action_of_zeros_and_leaves_no_credits():
    env = make(attack="none").unwrapped
    env.reset(seed=0)
    env.step(FIRST)
    update = torch.ones_like(env.view.theta)
    theta, rate = env.view.theta.clone(), float(env.view.learning_rate)
    env.use_update(update)
    info = env.step(ZERO)[4]
    assert np.isnan(info["credits"]).all()
    torch.testing.assert_close(env.view.theta, theta - rate * update)
    assert env.view.previous_credits[0].tolist() == FIRST.tolist()  # those of the last round that had any


def apply_it(env):
    env.step(ZERO)


def act_otherwise(env):
    assert env.step(FIRST)[4]["credits"].tolist() == FIRST.tolist()


def fail(env):
    with pytest.raises(ValueError, match="action"):
        env.step(np.full(6, np.nan))


def fail_early(env):
    for action in ([[1], [2, 3]], torch.ones(6, requires_grad=True)):
        with pytest.raises(ValueError, match="action must be an array of numbers"):
            env.step(action)


def begin_anew(env):
    env.reset(seed=0)


@pytest.mark.parametrize("event", [apply_it, act_otherwise, fail, fail_early, begin_anew])
def test_a_vector_is_forgotten_after_one_step_or_a_reset(event):
    env = make(attack="none").unwrapped
    env.reset(seed=0)
    env.use_update(torch.ones_like(env.view.theta))
    event(env)
    np.testing.assert_allclose(env.step(ZERO)[4]["credits"], 1 / 6, rtol=1e-6)
