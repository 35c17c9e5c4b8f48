"""FLTrust, and the comparison of submissions with the server's own gradient."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import ServerRule, combine_weights
from byzgym.aggregation.policy import Decision, combine
from byzgym.aggregation.registry import registry
from byzgym.aggregation.view import ServerView
from byzgym.numerics.distances import row_norms, unit_rows
from byzgym.numerics.finite import is_finite
from byzgym.numerics.moments import at_least_single


@registry.built_in("fltrust")
class FLTrust(ServerRule):
    """FLTrust of Cao, Fang, Liu and Gong 2021, "FLTrust: Byzantine-robust Federated Learning via Trust
    Bootstrapping" (https://arxiv.org/abs/2012.13995). It weighs submissions by their agreement with the
    server's own gradient and brings all to its norm.

    With v the gradient of the loss on the quasi-validation (QV) samples (the paper's root data set, of some
    100 samples), the trust of submission x_i is ``T_i = max(0, cos(x_i, v))``, and the update is ``sum_i T_i
    ||v|| / ||x_i|| x_i / sum_i T_i``. It is zero where nobody is trusted. Short submissions become longer, so
    the rule has no credits.

    Condition: n >= f + 1. Cost: n d, and one QV gradient.

    Args:
        num_byzantine: Not used.

    Example:
        >>> gradients = torch.tensor([[[6.0, 8.0], [0.0, -1.0]]])
        >>> view = ServerView(gradients, torch.zeros(1, 2), 0.1, lambda theta: theta[:, 0])
        >>> FLTrust().aggregate(view)  # the first one alone, at the norm of (1, 0)
        tensor([[0.6000, 0.8000]])
    """

    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "breakdown", "dimensional"})
    update_bound: ClassVar[str | None] = "norm set to that of the QV gradient"
    needs: ClassVar[frozenset[str]] = frozenset({"qv"})
    uses_num_byzantine: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def _decide(self, view: ServerView) -> Decision:
        cosines, norms, server = agreement(view)
        trust = cosines.clamp(min=0).masked_fill(view.rejected, 0)
        total = trust.sum(1, keepdim=True)
        shares = trust / torch.where(total > 0, total, 1)
        return Decision(combine_scaled(shares * server, norms, view.gradients))


def agreement(view: ServerView) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines of the submissions with the QV gradient, their norms, and its norm; all in double precision.

    Returns:
        Cosines [E, n], zero where either vector is; norms [E, n]; the norm of the QV gradient [E, 1].
    """
    norms = row_norms(view.gradients)
    server = view.qv_gradient[:, None]
    rows = at_least_single(view.gradients)
    ahead = unit_rows(server).mT.to(rows.dtype)
    products = (rows @ ahead)[..., 0].double()
    cosines = products / norms.masked_fill(norms == 0, 1)
    if not is_finite(products):  # a sum of large numbers may overflow
        cosines = torch.where(products.isfinite(), cosines, (unit_rows(rows) @ ahead)[..., 0].double())
    return cosines.clamp(-1, 1), norms, row_norms(server)


def combine_scaled(lengths: Tensor, norms: Tensor, gradients: Tensor) -> Tensor:
    """The sum [E, d] of the rows [E, n, d], each brought from its norm [E, n] to another length [E, n]."""
    factors = torch.where(norms > 0, lengths / norms.masked_fill(norms == 0, 1), 0)
    if (factors > torch.finfo(gradients.dtype).max).any():  # of rows that are all but zero
        return combine(factors, gradients.double()).to(gradients.dtype)
    return combine_weights(factors, gradients)
