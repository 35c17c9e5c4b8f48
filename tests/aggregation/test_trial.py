"""Trial steps: by hand, where the loss overflows, and by both ways to the gradient."""

import pytest
import torch
from server_views import normal, quadratic, view_of

from byzgym.aggregation import ServerView
from byzgym.aggregation.trial import loss_after, loss_and_gradient_after, trial_drops
from byzgym.numerics.finite import LARGEST_LOSS


def test_drops_by_hand():
    gradients = torch.tensor([[[10.0], [-10.0], [20.0]], [[0.0], [10.0], [30.0]]])
    drops = trial_drops(view_of(gradients, torch.tensor([[-1.0], [-1.0]])))  # minimum: a step of 1
    assert drops.dtype == torch.float64
    torch.testing.assert_close(drops, torch.tensor([[0.5, -1.5, 0], [0, 0.5, -1.5]]).double())


def test_a_step_of_nothing_lowers_nothing_even_by_rounding():
    theta, gradients = normal(3, 9, dtype=torch.float32), torch.zeros(3, 4, 9)
    # The loss by itself is rounded otherwise than with its gradient.
    view = ServerView(
        gradients,
        theta,
        0.1,
        lambda theta: theta.sum(1),
        qv_loss_and_gradient=lambda theta: (theta.flip(1).sum(1) * (1 + 1e-6), torch.ones_like(theta)),
    )
    assert not trial_drops(view).any()


@pytest.mark.parametrize("overflown", [torch.inf, -torch.inf, torch.nan])
def test_losses_that_overflow_are_the_largest(overflown):
    view = ServerView(torch.ones(1, 2, 1), torch.zeros(1, 1), 0.1, lambda theta: theta[:, 0] * 0 + overflown)
    assert loss_after(view, torch.ones(1, 1)).tolist() == [LARGEST_LOSS]
    loss, gradient = loss_and_gradient_after(view, torch.ones(1, 1))
    assert loss.tolist() == [LARGEST_LOSS]
    assert gradient.isfinite().all()


def test_rejected_submissions_lower_nothing():
    gradients = torch.tensor([[[5.0], [torch.nan]]])
    assert trial_drops(view_of(gradients, torch.tensor([[-1.0]])))[0, 1] == 0


@pytest.mark.parametrize("inference", [False, True])
def test_the_gradient_is_the_same_by_both_ways(inference):
    with torch.inference_mode(inference):
        theta, target, update = (normal(3, 5, seed=seed) for seed in range(3))
        slow = ServerView(normal(3, 2, 5), theta, 0.1, quadratic(target))
        fast = ServerView(
            normal(3, 2, 5),
            theta,
            0.1,
            quadratic(target),
            qv_loss_and_gradient=lambda theta: (quadratic(target)(theta), theta - target),
        )
        for one, other in zip(
            loss_and_gradient_after(slow, update), loss_and_gradient_after(fast, update), strict=True
        ):
            torch.testing.assert_close(one, other)
            assert not one.requires_grad
        torch.testing.assert_close(loss_after(slow, update), loss_and_gradient_after(slow, update)[0])
