"""The server's own samples, and the loss on them: finite, bounded, and in nobody's way."""

import pytest
import torch
from simulation_cases import make

from byzgym import tasks
from byzgym.simulation.quasi_validation import LARGEST_LOSS, QuasiValidation


class Scaling:
    """A model of two parameters whose loss is (theta_0 x)^2, and whose gradient overflows."""

    num_parameters = 2

    def loss(self, theta, x, y):
        return (theta[:, 0] * x[:, 0]).square()

    def loss_and_gradient(self, theta, x, y):
        return torch.tensor([torch.inf, 3e38]), torch.tensor([[torch.inf, 1.0], [-torch.inf, torch.nan]])


def test_losses_and_gradients_are_finite():
    qv = QuasiValidation(Scaling(), 2, torch.zeros(1), torch.zeros(1))
    loss, gradient = qv.loss_and_gradient(torch.zeros(2, 2))
    assert LARGEST_LOSS == 1e30
    assert loss.tolist() == pytest.approx([1e30, 1e30])
    assert gradient.tolist() == [[0, 1], [0, 0]]


def test_new_samples_leave_earlier_graphs():
    qv = QuasiValidation(Scaling(), 1, torch.zeros(1), torch.zeros(1))
    qv.assign(0, torch.ones(1), torch.zeros(1))
    theta = torch.ones(1, 2, requires_grad=True)
    loss = qv.loss(theta)
    qv.assign(0, torch.full((1,), 5.0), torch.zeros(1))
    loss.sum().backward()
    assert theta.grad[0, 0] == 2


def test_samples_are_in_no_share_and_no_test_set():
    def rows(x):
        return {tuple(row.tolist()) for row in x.flatten(1)}

    simulation = make(num_envs=3, task="digits")
    task, qv = simulation.setup.task, rows(simulation.quasi_validation.x.flatten(0, 1))
    assert qv <= rows(task.held_out[0])
    assert not qv & (rows(task.train[0]) | rows(task.test[0]))


ZEROS, LABELS = torch.zeros(10, 8), torch.zeros(10, dtype=torch.int64)


@pytest.mark.parametrize(
    "samples",
    [
        None,
        ZEROS,
        *((x, LABELS) for x in (ZEROS.numpy(), ZEROS[:3], ZEROS[:, :3], ZEROS * torch.nan)),
        *((ZEROS, y) for y in (None, LABELS.float(), LABELS - 1, LABELS + 3, LABELS[:3])),
    ],
)
def test_what_a_source_returns_is_checked(samples):
    tasks.quasi_validation.register("odd", lambda: lambda task, qv_size, generator: samples)
    with pytest.raises(ValueError, match=r"qv_source odd must return 10 finite samples of shape \(8,\)"):
        make(qv_source="odd")
    samples = (ZEROS.double(), LABELS)
    assert make(qv_source="odd").qv_loss().dtype == torch.float32
    samples = (ZEROS, LABELS + 3)
    with pytest.raises(
        ValueError, match=r"int64 of shape \(10,\) from 0 to 2, got 2 values \(float32 .* from 3 to 3"
    ):
        make(qv_source="odd")
