"""mixture: points of the cube that are other attacks, timetables, and reproducibility."""

import dataclasses

import numpy as np
import pytest
import torch
from attack_cases import context_for, gradients_like, mask_of
from hypothesis import given, settings
from hypothesis import strategies as st

from byzgym import attacks
from byzgym.attacks.mixture import SIZE, Mixture, point_of
from byzgym.simulation import Simulation


def point(*components, **sides):
    """A point without a timetable: (name, factor) of its components, and other sides by number."""
    numbers = point_of(*components)
    for side, value in sides.items():
        numbers[int(side[1:])] = value
    return numbers


def submit(numbers, gradients, byzantine, round=0, context=None):
    context = context or context_for(gradients)
    context = dataclasses.replace(context, round=torch.full((len(gradients),), round))
    return Mixture(point=numbers)(gradients, byzantine, context)


@pytest.mark.parametrize(
    ("numbers", "other"),
    [
        (point(("own", -1)), "sign_flip"),
        (point(("own", 10)), "scaled:factor=10"),
        (point(("mean", -0.5)), "ipm:epsilon=0.5"),
        (point(("mean", 1), ("std", -1.5)), "alie:z=1.5"),
    ],
)
def test_known_attacks_are_points_of_it(numbers, other):
    gradients, byzantine = gradients_like(2, 6, 50), mask_of(6, [0, 3, 5], [1])
    expected = attacks.make_from(other)(gradients, byzantine, context_for(gradients))
    torch.testing.assert_close(submit(numbers, gradients, byzantine), expected, rtol=1e-4, atol=1e-4)


def test_noise_and_directions_have_the_norm_of_the_honest_mean():
    gradients, byzantine = gradients_like(1, 5, 400), mask_of(5, [0, 1])
    norm = gradients[0, 2:].mean(0).norm()
    for name, same in (("own_noise", False), ("common_noise", True), ("direction", True), ("spikes", True)):
        submitted = submit(point((name, 1)), gradients, byzantine)
        torch.testing.assert_close(submitted[0, :2].norm(dim=1), norm.expand(2), rtol=1e-4, atol=1e-4)
        assert torch.equal(submitted[0, 0], submitted[0, 1]) is same
    assert (submitted[0, 0] != 0).sum() == 4  # a hundredth of the coordinates


def test_a_direction_stays_and_common_noise_changes():
    gradients, byzantine = gradients_like(1, 5, 40), mask_of(5, [0])
    for name, stays in (("direction", True), ("common_noise", False)):
        context = context_for(gradients)
        rows = [submit(point((name, 1)), gradients, byzantine, round, context)[0, 0] for round in (0, 1)]
        assert torch.equal(*rows) is stays


def test_mimic_and_copies_send_what_honest_workers_send():
    gradients, byzantine = gradients_like(3, 6, 20), mask_of(6, [0, 1, 2, 3], [5], [0, 2, 4])
    for name in ("mimic", "copies"):
        submitted = submit(point((name, 1)), gradients, byzantine)
        for env in range(3):
            honest = gradients[env, ~byzantine[env]]
            for row in submitted[env, byzantine[env]]:
                assert min((row - other).norm() for other in honest) < 1e-4


def test_it_sleeps_and_alternates_and_changes():
    gradients, byzantine = gradients_like(1, 4, 10), mask_of(4, [0, 1])

    def attacking(round, worker=0, **sides):
        submitted = submit(point(("own", -1), **sides), gradients, byzantine, round)
        return not torch.equal(submitted[0, worker], gradients[0, worker])

    asleep = {"_2": 0.15}  # until round 60 ** 0.5 = 7
    assert [attacking(round, **asleep) for round in (0, 6, 7, 50)] == [False, False, True, True]
    together = {"_3": 0.02, "_4": 0.9}  # on for 2 rounds, off for 2
    assert [attacking(round, **together) for round in range(6)] == [True, True, False, False, True, True]
    apart = {"_3": 0.02, "_4": 0.1}
    assert [attacking(0, worker, **apart) for worker in (0, 1)] == [True, False]
    changing = point(("own", -1), _5=0.15)  # in round 45
    changing[21:31] = point(("mean", -1))[21:31]
    after = submit(changing, gradients, byzantine, 45)
    torch.testing.assert_close(after[0, 0], -gradients[0, 2:].mean(0))
    torch.testing.assert_close(submit(changing, gradients, byzantine, 44)[0, 0], -gradients[0, 0])


@pytest.mark.parametrize("kind", [0.05, 0.15, 0.25])
def test_a_target_leaves_the_other_coordinates_alone(kind):
    gradients, byzantine = gradients_like(1, 4, 200), mask_of(4, [0, 1])
    submitted = submit(point(("own", -1), _6=kind, _7=0.5), gradients, byzantine)
    changed = (submitted[0, 0] != gradients[0, 0]).float().mean()
    assert 0.1 < changed < 0.7
    assert torch.equal((submitted != gradients)[0, 0], (submitted != gradients)[0, 1])


def test_wrong_labels_are_one_mapping_for_byzantine_workers_alone():
    x, y = torch.zeros(1, 3, 8, 4), torch.arange(8)[None, None].repeat(1, 3, 1)
    byzantine = mask_of(3, [1])
    context = context_for(torch.zeros(1, 3, 5))
    for kind, expected in ((0.1, [9, 8, 7, 6, 5, 4, 3, 2]), (0.25, [1, 2, 3, 4, 5, 6, 7, 8]), (0.5, [0] * 8)):
        numbers = point(("own", 1), _0=0.1, _1=kind)
        wrong = Mixture(numbers).poison(x, y, byzantine, dataclasses.replace(context, memory=None))[1]
        assert wrong[0, 1].tolist() == expected
        assert torch.equal(wrong[0, [0, 2]], y[0, [0, 2]])
    numbers = point(("own", 1), _0=0.1, _1=0.9)
    wrong = Mixture(numbers).poison(x, y, byzantine, dataclasses.replace(context, memory=None))[1]
    assert len(set(wrong[0, 1].tolist())) == 8
    assert not torch.equal(wrong, y)


@given(st.lists(st.floats(0, 1), min_size=SIZE, max_size=SIZE), st.integers(0, 100))
@settings(max_examples=100, deadline=None)
def test_every_point_is_an_attack(numbers, round):
    gradients, byzantine = gradients_like(2, 5, 30), mask_of(5, [0, 1, 2, 3], [])
    submitted = submit(numbers, gradients, byzantine, round)
    assert submitted.isfinite().all()
    assert torch.equal(submitted[~byzantine], gradients[~byzantine])


def test_episodes_have_points_of_their_own_that_the_seed_decides():
    def points(simulation):
        return simulation.workers.memories[1].read("point", SIZE)

    arguments = {"num_envs": 3, "task": "synthetic", "attack": "mixture", "rounds": 5}
    first = Simulation.make(seed=0, **arguments)
    again = Simulation.make(seed=0, **arguments)
    assert torch.equal(points(first), points(again))
    assert len(set(points(first)[:, 0].tolist())) == 3
    first.reset([77], [1])
    assert torch.equal(points(first)[[0, 2]], points(again)[[0, 2]])
    assert not torch.equal(points(first)[1], points(again)[1])
    one = Simulation.make(seed=2, **{**arguments, "num_envs": 1})
    assert torch.equal(points(one)[0], points(again)[2])


@pytest.mark.parametrize("numbers", [[0.5], "0.5", [0.5] * 30 + [1.5], [0.5] * 32])
def test_bad_points_are_refused(numbers):
    with pytest.raises(ValueError, match="point"):
        Mixture(point=numbers)


def test_a_point_may_be_an_array_or_a_tensor():
    numbers = [0.5] * SIZE
    for point in (np.array(numbers), torch.tensor(numbers, dtype=torch.float64)):
        assert Mixture(point).point == numbers
    with pytest.raises(ValueError, match="point must be 31 numbers from 0 to 1, got array"):
        Mixture(np.zeros(3))
