"""Bant and AutoBANT: trust scores from trial steps on the server's own loss."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import ServerRule, combine_weights
from byzgym.aggregation.policy import Decision
from byzgym.aggregation.registry import registry
from byzgym.aggregation.trial import loss_after, loss_and_gradient_after, trial_drops, trial_losses
from byzgym.aggregation.view import ServerView
from byzgym.numerics.distances import row_norms, unit_rows
from byzgym.numerics.finite import LARGEST_LOSS
from byzgym.numerics.moments import at_least_single
from byzgym.validation import check_bool, check_int, check_real

LARGEST_GAIN = 100.0
"""Limit of the exponents in a step of `AutoBant`; exp(-100) is as good as nothing."""


@registry.built_in("bant")
class Bant(ServerRule):
    """BANT of Molodtsov et al. 2025, "Bant: Byzantine Antidote via Trial Function and Trust Scores"
    (https://arxiv.org/abs/2505.07614). It weighs submissions by how far trial steps along them have lowered
    the server's loss.

    With ``D_i = max(0, F(theta) - F(theta - lr x_i))`` and F the mean loss on the quasi-validation (QV)
    samples, the trust scores are ``w_i <- (1 - beta) w_i + beta D_i / sum_j D_j``, from 1/n at first, where
    the fraction is 1/n if every D is zero. The credits are w_i where D_i > 0, and zero elsewhere (their
    algorithm 1). They sum to 1 only if every D is positive.

    Condition: n >= f + 1. Cost: n d, and n + 1 QV losses.

    Args:
        num_byzantine: Not used.
        beta: The weight of the present round, above 0 and at most 1.
        renormalize: Whether credits are divided by their sum, as in the authors' code. (Where no trial lowers
            the loss, that code gives everybody credit, and moves the scores towards 1/n by 0.001 in place of
            beta; here nobody gets any.)

    Example:
        >>> from byzgym.memory import Memory
        >>> gradients = torch.tensor([[[1.0], [2.0], [-1.0], [-2.0]]])
        >>> view = ServerView(gradients, torch.ones(1, 1), 0.1, lambda theta: theta[:, 0], memory=Memory(1))
        >>> Bant().credits(view)  # half of 1/4, and half of 1/3 or 2/3
        tensor([[0.2917, 0.4583, 0.0000, 0.0000]])
    """

    # Far along a direction in which the loss falls, a Byzantine worker earns trust without bound.
    claims: ClassVar[frozenset[str]] = frozenset({"permutation"})
    linear = True
    needs: ClassVar[frozenset[str]] = frozenset({"memory", "qv"})
    uses_num_byzantine: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def __init__(self, num_byzantine: int = 0, beta: float = 0.5, renormalize: bool = False) -> None:
        super().__init__(num_byzantine)
        self.beta = check_real("beta", beta, above=0, high=1)
        self.renormalize = check_bool("renormalize", renormalize)

    def _decide(self, view: ServerView) -> Decision:
        drops = trial_drops(view).clamp(min=0)  # [E, n]
        total = drops.sum(1, keepdim=True)
        even = 1 / view.num_workers
        present = torch.where(total > 0, drops / torch.where(total > 0, total, 1), even)
        # What is kept is the difference from 1/n, since a memory begins with zeros.
        kept = view.recall("bant.scores", dtype=torch.float64)
        kept = (1 - self.beta) * kept + self.beta * (present - even)
        view.keep("bant.scores", kept)
        credits = torch.where(drops > 0, (even + kept).clamp(min=0), 0)
        if self.renormalize:
            some = credits.sum(1, keepdim=True)
            credits = credits / torch.where(some > 0, some, 1)
        return Decision.from_credits(credits, view)


@registry.built_in("auto_bant")
class AutoBant(ServerRule):
    """AutoBANT of Molodtsov et al. 2025, "Bant: Byzantine Antidote via Trial Function and Trust Scores"
    (https://arxiv.org/abs/2505.07614). It takes the credits with which the step of this round lowers the
    server's loss most.

    These are an approximate ``argmin_w F(theta - lr sum_i w_i x_i)`` over the simplex, with F the mean loss
    on the quasi-validation (QV) samples. Mirror descent looks for them, from 1/n each:
    ``w_i <- w_i exp(rate <u, x_i> / ||v||)``, divided by their sum. Here v is the gradient of F at theta, and
    u the direction of its gradient after a step with the present w, so that units have no effect. The best w
    met on the way counts. If F overflows at 1/n each, workers whose own step makes it overflow are left out;
    if it overflows all the way, nobody gets credit.

    The authors' code takes exp(-G_i), with G the gradient in w; it makes 5 passes over 500 samples in
    batches, moves by 5 % of each step, and at last sets credits below 1/(2n) to zero, so that their sum can
    be less than 1.

    Condition: n >= f + 1. Cost: ``steps`` times n d and one QV gradient.

    Args:
        num_byzantine: Not used.
        steps: How many steps of mirror descent, at least 1.
        rate: Their size, above 0.

    Example:
        >>> gradients = torch.tensor([[[1.0], [-1.0]]])
        >>> view = ServerView(gradients, torch.ones(1, 1), 0.1, lambda theta: theta[:, 0] ** 2)
        >>> AutoBant(steps=1).credits(view)  # exp(1/2) and exp(-1/2), divided by their sum
        tensor([[0.7311, 0.2689]])
    """

    # No breakdown: the steps are an approximation, and the exact optimum may be far where the loss falls.
    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "hull"})
    linear = True
    needs: ClassVar[frozenset[str]] = frozenset({"qv"})
    uses_num_byzantine: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def __init__(self, num_byzantine: int = 0, steps: int = 8, rate: float = 1.0) -> None:
        super().__init__(num_byzantine)
        self.steps = check_int("steps", steps, low=1)
        self.rate = check_real("rate", rate, above=0)

    def _decide(self, view: ServerView) -> Decision:
        rows = at_least_single(view.gradients)
        logits = torch.zeros(view.rejected.shape, dtype=torch.float64, device=rows.device)
        logits = logits.masked_fill(view.rejected, -torch.inf)
        best = logits.new_full((view.num_envs,), LARGEST_LOSS)
        chosen = logits.new_zeros(logits.shape)
        for number in range(self.steps + 1):
            credits = torch.nan_to_num(logits.softmax(1))  # all NaN where nobody is left
            update = combine_weights(credits, rows)
            if number < self.steps:
                loss, gradient = loss_and_gradient_after(view, update)
                logits = logits + self.rate * _gain(view, rows, gradient)
                if number == 0 and (loss >= LARGEST_LOSS).any():
                    hopeless = (loss >= LARGEST_LOSS)[:, None] & (trial_losses(view) >= LARGEST_LOSS)
                    logits = logits.masked_fill(hopeless, -torch.inf)
            else:
                loss = loss_after(view, update)
            better = loss < best
            best, chosen = torch.where(better, loss, best), torch.where(better[:, None], credits, chosen)
        return Decision.from_credits(chosen, view)


def _gain(view: ServerView, rows: Tensor, gradient: Tensor) -> Tensor:
    """How far credit [E, n] for each of the rows [E, n, d] lowers the loss, along its gradient [E, d].

    The unit is what credit for the QV gradient itself would do at theta.
    """
    gain = (rows @ unit_rows(gradient).to(rows.dtype)[..., None])[..., 0].double()
    server = row_norms(view.qv_gradient[:, None])
    largest = gain.abs().amax(1, keepdim=True)
    unit = torch.where(server > 0, server, torch.where(largest > 0, largest, 1))
    return (gain / unit).clamp(-LARGEST_GAIN, LARGEST_GAIN)
