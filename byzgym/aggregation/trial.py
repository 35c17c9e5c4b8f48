"""Trial steps: what the server's quasi-validation (QV) loss would be after a step that it has not taken."""

from __future__ import annotations

import torch
from torch import Tensor

from byzgym.aggregation.view import ServerView
from byzgym.numerics.finite import finite_loss


def trial_losses(view: ServerView) -> Tensor:
    """The QV loss [E, n], double, after a step along each submission alone."""
    return torch.stack([loss_after(view, row) for row in view.gradients.unbind(1)], 1)


def trial_drops(view: ServerView) -> Tensor:
    """How far a step along each submission alone lowers the QV loss, [E, n], double.

    It is zero for rejected submissions.

    Example:
        >>> gradients, theta = torch.tensor([[[1.0], [-1.0]]]), torch.ones(1, 1)
        >>> trial_drops(ServerView(gradients, theta, 0.5, qv_loss=lambda theta: theta[:, 0] ** 2))
        tensor([[ 0.7500, -1.2500]], dtype=torch.float64)
    """
    # Not view.qv_value, which is computed in another way and may differ in the last bits: a submission that
    # changes nothing must lower nothing.
    before = loss_after(view, torch.zeros_like(view.theta))
    return (before[:, None] - trial_losses(view)).masked_fill(view.rejected, 0)


@torch.no_grad()
def loss_after(view: ServerView, update: Tensor) -> Tensor:
    """The QV loss [E], double, after the step ``theta - learning_rate * update`` with an update [E, d]."""
    assert view.qv_loss is not None  # who calls this has looked
    return finite_loss(view.qv_loss(_step(view, update)).double())


def loss_and_gradient_after(view: ServerView, update: Tensor) -> tuple[Tensor, Tensor]:
    """The QV loss [E], double, and its gradient [E, d] in theta, after the step along an update [E, d].

    Entries of the gradient that are not finite become zero.
    """
    loss, gradient = view.qv_at(_step(view, update))
    return finite_loss(loss.double()), gradient  # 1e30 in single precision is a little more


def _step(view: ServerView, update: Tensor) -> Tensor:
    return view.theta - view.learning_rate[:, None] * update.to(view.theta.dtype)
