"""The loss on the server's own samples: finite, bounded, and in nobody's way."""

import pytest
import torch

from byzgym.simulation.quasi_validation import LARGEST_LOSS, QuasiValidation


class Scaling:
    """A model of two parameters whose loss is (theta_0 x)^2, and whose gradient overflows."""

    num_parameters = 2

    def loss(self, theta, x, y):
        return (theta[:, 0] * x[:, 0]).square()

    def loss_and_gradient(self, theta, x, y):
        return torch.tensor([torch.inf, 3e38]), torch.tensor([[torch.inf, 1.0], [-torch.inf, torch.nan]])


def test_losses_and_gradients_are_finite_and_bounded():
    qv = QuasiValidation(Scaling(), 2, torch.zeros(1), torch.zeros(1))
    loss, gradient = qv.loss_and_gradient(torch.zeros(2, 2))
    assert LARGEST_LOSS == 1e30
    assert loss.tolist() == pytest.approx([1e30, 1e30])
    assert gradient.tolist() == [[0, 1], [0, 0]]


def test_new_samples_leave_graphs_of_earlier_losses_alone():
    qv = QuasiValidation(Scaling(), 1, torch.zeros(1), torch.zeros(1))
    qv.assign(0, torch.ones(1), torch.zeros(1))
    theta = torch.ones(1, 2, requires_grad=True)
    loss = qv.loss(theta)
    qv.assign(0, torch.full((1,), 5.0), torch.zeros(1))
    loss.sum().backward()
    assert theta.grad[0, 0] == 2
