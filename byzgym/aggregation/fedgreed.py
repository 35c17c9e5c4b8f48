"""FedGreed."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import ServerRule
from byzgym.aggregation.policy import Decision
from byzgym.aggregation.registry import registry
from byzgym.aggregation.trial import loss_after, trial_losses
from byzgym.aggregation.view import ServerView
from byzgym.numerics.distances import take_row


@registry.built_in("fedgreed")
class FedGreed(ServerRule):
    """FedGreed of Kritharakis, Makris, Jakovetic and Tserpes 2025, "FedGreed: A Byzantine-Robust Loss-Based
    Aggregation Method for Federated Learning" (https://arxiv.org/abs/2508.18060). It averages the submissions
    that are best by themselves, as many as lower the server's loss together.

    Submissions are ordered by the loss on the quasi-validation (QV) samples after a step along each alone.
    The server then tries the mean of the first k, for k = 1, 2, ..., and stops before the loss after a step
    along the mean rises. Where it stays the same, the smallest of these k counts, as in the authors' code.
    The best submission is always taken, even if it raises the loss.

    Condition: n >= f + 1. Cost: n d, and 2n QV losses.

    Args:
        num_byzantine: Not used.

    Example:
        >>> gradients = torch.tensor([[[-9.0], [2.0], [8.0]]])  # a step along 10 would be the best
        >>> view = ServerView(gradients, torch.ones(1, 1), 0.1, lambda theta: theta[:, 0] ** 2)
        >>> FedGreed().credits(view)
        tensor([[0., 0., 1.]])
    """

    # No breakdown: the best submission may be far away in a direction in which the loss falls.
    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "hull"})
    linear = True
    needs: ClassVar[frozenset[str]] = frozenset({"qv"})
    uses_num_byzantine: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def _decide(self, view: ServerView) -> Decision:
        order = trial_losses(view).masked_fill(view.rejected, torch.inf).sort(dim=1, stable=True).indices
        count = _best_count(view, order)[:, None]
        credits = (order.argsort(1) < count).double() / count.clamp(min=1)
        return Decision.from_credits(credits, view)


def _best_count(view: ServerView, order: Tensor) -> Tensor:
    """How many [E] of the submissions to take, in the order [E, n], accepted ones first."""
    accepted = (~view.rejected).sum(1)
    count = torch.zeros_like(accepted)
    going = accepted > 0
    mean = torch.zeros_like(view.theta)
    best = torch.full(accepted.shape, torch.inf, dtype=torch.float64, device=accepted.device)
    for number in range(1, view.num_workers + 1):
        row = take_row(view.gradients, order[:, number - 1]).to(mean.dtype)
        mean = mean + (row - mean) / number
        loss = loss_after(view, mean)
        going = going & (number <= accepted) & (loss <= best)
        count = torch.where(going & (loss < best), number, count)
        best = torch.where(going, loss, best)
        if not going.any():
            break
    return count
