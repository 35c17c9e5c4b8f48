"""Trust: how well a worker's submissions have agreed with the server's own gradient."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import ServerRule
from byzgym.aggregation.evidence import reputation
from byzgym.aggregation.policy import Decision
from byzgym.aggregation.registry import registry
from byzgym.aggregation.view import ServerView
from byzgym.numerics.distances import row_norms

SHARPNESS = 4.0
LARGEST = 1.5
"""Norm of a submission above which it is clipped, in units of the reference norm."""


@registry.built_in("trust")
class Trust(ServerRule):
    """Credits from a running mean of each worker's agreement with the quasi-validation (QV) gradient.

    A round's evidence for worker i is ``y_i = sum_j C_ij x_j / sum_j |C_ij|`` with ``x_j`` the cosine of
    submission j with the QV gradient and ``C`` the cosines between submissions: honest submissions resemble
    each other, so agreement is passed on between them. ``T`` is the running mean of the evidence (rate 0.1,
    corrected for its start), see `reputation`. The credits are ``softmax(4 T / rms(T))``, and zero where no
    ``T_i`` is positive. A submission is clipped to 1.5 times a reference norm: the geometric mean of the
    norms, weighted by the credits, and kept between 1 and 3 times the norm of the QV gradient.

    It uses what FLTrust (Cao et al. 2021, https://arxiv.org/abs/2012.13995) uses, the cosine with a gradient
    of the server's own. It remembers, so ten samples can do at first. In long runs the model fits them, their
    gradient says little, and trust may follow attackers: baselines/README.md has figures. It is not told f.

    Condition: n >= f + 1. Cost: n^2 d, and one gradient of the QV loss.

    Args:
        num_byzantine: Not used.

    Example:
        >>> from byzgym.memory import Memory
        >>> gradients = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0]]])
        >>> view = ServerView(
        ...     gradients, torch.zeros(1, 2), 0.1, lambda theta: theta @ torch.tensor([1.0, 0.0]),
        ...     memory=Memory(num_envs=1),
        ... )
        >>> Trust().credits(view)
        tensor([[0.50, 0.50, 0.00]])
    """

    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "breakdown", "dimensional"})
    update_bound: ClassVar[str | None] = (
        f"norm at most {LARGEST} times a reference norm, which is 1 to 3 times that of the QV gradient"
    )
    linear = True
    needs: ClassVar[frozenset[str]] = frozenset({"memory", "qv"})
    uses_num_byzantine: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def _decide(self, view: ServerView) -> Decision:
        trust = reputation(view).masked_fill(view.rejected, 0)
        rms = trust.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)
        credits = torch.softmax((SHARPNESS * trust / rms).masked_fill(view.rejected, -torch.inf), 1)
        credits = torch.where((trust > 0).any(1, keepdim=True), credits, 0)
        return Decision.from_credits(clip(credits, view, LARGEST), view)


def clip(credits: Tensor, view: ServerView, largest: float) -> Tensor:
    """Credits [E, n] that shorten the submissions to ``largest`` times a reference norm.

    The reference is the geometric mean of the norms, weighted by the credits, kept between 1 and 3 times the
    norm of the QV gradient.
    """
    norms = row_norms(view.gradients)  # double
    logs = norms.clamp(min=1e-40).log()
    weights = credits.double()
    server = row_norms(view.qv_gradient[:, None])[:, 0]
    mean = ((weights * logs).sum(1) / weights.sum(1).clamp(min=1e-12)).exp()
    reference = torch.minimum(torch.maximum(mean, server), 3 * server)
    factors = (largest * reference[:, None] / norms.clamp(min=1e-40)).clamp(max=1)
    return (weights * factors).to(credits.dtype)
