import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from byzgym.forensics import groups, near_copies


def noisy(num_workers, noise, seed=0, dimension=50):
    generator = torch.Generator().manual_seed(seed)
    center = torch.ones(dimension)
    return center + noise * torch.randn(1, num_workers, dimension, generator=generator)


@pytest.mark.parametrize("noise", [0.0, 1e-6, 0.01, 0.04, 0.1, 1.0, 100.0])
def test_honest_workers_near_the_true_gradient_are_no_copies(noise):
    assert near_copies(noisy(10, noise)).tolist() == [list(range(10))]


@pytest.mark.parametrize("noise", [0.3, 1.0])
@pytest.mark.parametrize("blur", [0.0, 1e-7, 1e-3])
def test_copies_are_found_in_a_minority_and_in_a_majority(noise, blur):
    for copies in (2, 7, 9):
        gradients = noisy(10, noise)
        gradients[:, :copies] = -2 * gradients[:, :1] + blur * noisy(copies, 1.0, seed=1)
        assert near_copies(gradients).tolist() == [[0] * copies + list(range(copies, 10))]


def test_two_groups_and_batches():
    gradients = noisy(8, 1.0).repeat(2, 1, 1)
    gradients[1, 5] = gradients[1, 2]
    gradients[1, 0] *= -1
    gradients[1, 7] = gradients[1, 0]
    assert near_copies(gradients).tolist() == [list(range(8)), [0, 1, 2, 3, 4, 2, 6, 0]]


def test_rejected_rows_are_copies_of_nobody():
    gradients = noisy(6, 1.0)
    gradients[:, :3] = 0
    assert near_copies(gradients).tolist() == [list(range(6))]
    assert near_copies(torch.zeros(1, 3, 4)).tolist() == [[0, 1, 2]]
    assert near_copies(torch.ones(1, 1, 4)).tolist() == [[0]]


@given(st.integers(2, 8), st.integers(-12, 12), st.randoms(use_true_random=False))
def test_scale_does_not_matter_and_order_only_names(copies, exponent, random):
    gradients = noisy(8, 1.0)
    gradients[:, :copies] = gradients[:, :1]
    order = random.sample(range(8), 8)
    found = near_copies(gradients[:, order] * 10.0**exponent)[0]
    same = found[:, None] == found[None, :]
    member = torch.tensor(order) < copies
    expected = (member[:, None] & member[None, :] & (copies < 8)) | torch.eye(8, dtype=torch.bool)
    assert torch.equal(same, expected)


def labels(rounds, *together):
    found = np.tile(np.arange(6), (rounds, 1))
    for start, end, group in together:
        found[start:end, list(group)] = min(group)
    return found


def test_groups_of_constant_of_late_and_of_rare_copies():
    assert groups(labels(100)) == []
    assert groups(labels(100, (0, 100, (1, 4)))) == [[1, 4]]
    assert groups(labels(100, (95, 100, (0, 2, 5)), (0, 100, (1, 4)))) == [[0, 2, 5], [1, 4]]
    assert groups(labels(100, (98, 100, (0, 2, 5)))) == []


def test_a_worker_belongs_to_those_it_copies_most():
    # Worker 0 copies in 70 rounds: in 40 of them with 4, and in 30 with 1, 2 and 3 (an index of 3 / 7).
    shared = labels(110, (0, 30, (0, 1, 2, 3)), (30, 70, (0, 4)), (70, 110, (1, 5)))
    assert groups(shared) == [[0, 4], [1, 5], [2, 3]]


def test_one_worker_has_no_group():
    assert groups(np.zeros((5, 1), dtype=int)) == []
