"""Zeno and Zeno++: the submissions that promise to lower the server's own loss."""

from __future__ import annotations

from typing import ClassVar

import torch

from byzgym.aggregation.base import ServerRule
from byzgym.aggregation.fltrust import agreement, combine_scaled
from byzgym.aggregation.policy import Decision
from byzgym.aggregation.registry import registry
from byzgym.aggregation.trial import trial_drops
from byzgym.aggregation.view import ServerView
from byzgym.numerics.distances import row_norms
from byzgym.validation import check_real

RATIO = 200
"""The learning rate over rho, where rho is not given."""


@registry.built_in("zeno")
class Zeno(ServerRule):
    """Zeno of Xie, Koyejo and Gupta 2019, "Zeno: Distributed Stochastic Gradient Descent with Suspicion-based
    Fault-tolerance" (https://arxiv.org/abs/1805.10032). It averages the n - f submissions with the best
    scores.

    The score of a submission v is ``F(theta) - F(theta - lr v) - rho ||v||^2``, with F the mean loss on the
    quasi-validation (QV) samples and lr the learning rate. Of equal scores, the first workers win. Rejected
    submissions count among the f. Zeno draws new samples in each round; here that is up to the job, see
    ``qv_period``.

    Condition: n >= f + 1. Cost: n d, and n + 1 QV losses.

    Args:
        num_byzantine: The number f of submissions to leave out.
        rho: The weight of the squared norm, at least 0. Where None, it is the learning rate over 200, as in
            the authors' code (which takes the mean of the squares in place of the norm).

    Example:
        >>> gradients = torch.tensor([[[1.0], [3.0], [-1.0]]])
        >>> view = ServerView(gradients, torch.ones(1, 1), 0.1, lambda theta: theta[:, 0] ** 2)
        >>> Zeno(num_byzantine=1).credits(view)  # the third raises the loss
        tensor([[0.5000, 0.5000, 0.0000]])
    """

    # Breakdown: no loss falls by more than it is, and the squared norm counts against it.
    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "hull", "breakdown"})
    linear = True
    needs: ClassVar[frozenset[str]] = frozenset({"qv"})
    differentiable: ClassVar[bool] = False

    def __init__(self, num_byzantine: int = 0, rho: float | None = None) -> None:
        super().__init__(num_byzantine)
        self.rho = None if rho is None else check_real("rho", rho, low=0)

    def _decide(self, view: ServerView) -> Decision:
        rho = view.learning_rate[:, None] / RATIO if self.rho is None else self.rho
        scores = trial_drops(view) - rho * row_norms(view.gradients).square()
        scores = scores.masked_fill(view.rejected, -torch.inf)
        order = scores.sort(dim=1, descending=True, stable=True).indices
        keep = (~view.rejected).sum(1, keepdim=True).clamp(max=view.num_workers - self.num_byzantine)
        return Decision.from_credits((order.argsort(1) < keep).double() / keep.clamp(min=1), view)


@registry.built_in("zeno_plus")
class ZenoPlus(ServerRule):
    """Zeno++ of Xie, Koyejo and Gupta 2020, "Zeno++: Robust Fully Asynchronous SGD"
    (https://arxiv.org/abs/1903.07020), in synchronous rounds. It averages the submissions that pass a test
    against the server's own gradient.

    With v the gradient of the loss on the quasi-validation (QV) samples, a submission is first brought to the
    norm of v. The result g passes if ``lr <v, g> - rho ||g||^2 >= -lr epsilon``, with lr the learning rate.
    The update is the mean of those that pass, and zero where none does. The paper tests and applies one
    submission at a time, as they arrive, and renews v only every few steps, to save time; here v is new in
    each round. Its authors' code subtracts rho times the squared norm from before.

    Short submissions become longer, so the rule has no credits.

    Condition: n >= f + 1. Cost: n d, and one QV gradient.

    Args:
        num_byzantine: Not used.
        rho: The weight of the squared norm, at least 0.
        epsilon: By how much the test may be missed, at least 0.

    Example:
        >>> gradients = torch.tensor([[[6.0, 8.0], [0.0, -1.0]]])
        >>> view = ServerView(gradients, torch.zeros(1, 2), 0.1, lambda theta: theta.sum(1))
        >>> ZenoPlus().aggregate(view) * 2**-0.5  # the first one alone, at the norm of (1, 1)
        tensor([[0.6000, 0.8000]])
    """

    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "breakdown", "dimensional"})
    update_bound: ClassVar[str | None] = "norm set to that of the QV gradient"
    needs: ClassVar[frozenset[str]] = frozenset({"qv"})
    uses_num_byzantine: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def __init__(self, num_byzantine: int = 0, rho: float = 0.001, epsilon: float = 0.0) -> None:
        super().__init__(num_byzantine)
        self.rho = check_real("rho", rho, low=0)
        self.epsilon = check_real("epsilon", epsilon, low=0)

    def _decide(self, view: ServerView) -> Decision:
        cosines, norms, server = agreement(view)
        rate = view.learning_rate[:, None].double()
        # A submission of zeros has no direction and stays zero.
        scores = torch.where(norms > 0, (rate * cosines - self.rho) * server.square(), 0)
        passed = (scores >= -rate * self.epsilon) & ~view.rejected
        shares = passed.double() / passed.sum(1, keepdim=True).clamp(min=1)
        return Decision(combine_scaled(shares * server, norms, view.gradients))
