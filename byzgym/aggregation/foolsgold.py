"""FoolsGold."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import ServerRule
from byzgym.aggregation.policy import Decision
from byzgym.aggregation.registry import registry
from byzgym.aggregation.view import ServerView
from byzgym.numerics.distances import unit_rows
from byzgym.numerics.finite import finite_sum
from byzgym.validation import check_real

ROUNDING = 1e-5
"""Cosines this near to 1 count as 1. Weights are relative, so rounding errors could decide them."""


@registry.built_in("foolsgold")
class FoolsGold(ServerRule):
    """FoolsGold of Fung, Yoon and Beschastnikh 2020, "The Limitations of Federated Learning in Sybil
    Settings" (https://arxiv.org/abs/1808.04866). It trusts workers less the more their past resembles that of
    another one.

    With H_i the sum of all submissions of worker i and ``c_ij = cos(H_i, H_j)`` (zero for i = j), let
    ``m_i = max_j c_ij``. Where m_i < m_j, c_ij is multiplied by m_i / m_j: who resembles a sybil by chance is
    pardoned. Then ``a_i = 1 - max_j c_ij``, within 0 to 1, is divided by the largest of all a, and the weight
    is ``confidence (ln(a_i / (1 - a_i)) + 1/2)``, within 0 to 1. The update is the mean of the weighted
    submissions. The paper takes their sum, as its learning rate is made for. The authors' code has no factor
    in front of the logarithm, as here by default. FLPoison shortens submissions to norm 1 before it adds them
    to the history; CRYPTO-KU's library remembers the last 10 rounds only.

    It is meant for workers whose data differ. Where they are alike, honest workers look like sybils: weights
    are small, and zero for all where all have sent the same. The paper may also weigh the coordinates by
    their importance for the model's output layer; a server of gradients does not know that layer, so this is
    left out.

    Condition: n >= f + 1. Cost: n^2 d. It keeps n d numbers.

    Args:
        num_byzantine: Not used.
        confidence: The factor (the paper's kappa) of the logarithm, above 0.

    Example:
        >>> from byzgym.memory import Memory
        >>> gradients = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
        >>> FoolsGold().credits(ServerView(gradients, torch.zeros(1, 2), 0.1, None, memory=Memory(1)))
        tensor([[0.3333, 0.0000, 0.0000]])
    """

    # No breakdown: who is unlike all others gets the largest weight.
    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "scale"})
    sybil_resistance: ClassVar[str | None] = (
        "less credit for workers whose past submissions are alike; sybils that differ are not found"
    )
    linear = True
    needs: ClassVar[frozenset[str]] = frozenset({"memory"})
    uses_num_byzantine: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def __init__(self, num_byzantine: int = 0, confidence: float = 1.0) -> None:
        super().__init__(num_byzantine)
        self.confidence = check_real("confidence", confidence, above=0)

    def _decide(self, view: ServerView) -> Decision:
        # Half precision would soon lose what is added.
        dtype = torch.promote_types(view.gradients.dtype, torch.float32)
        history = view.recall("foolsgold.history", view.gradients.shape[2], dtype=dtype)  # [E, n, d]
        history = finite_sum(history, view.gradients.detach())
        view.keep("foolsgold.history", history)
        alone = _difference(history).masked_fill(view.rejected, 0)
        largest = alone.amax(1, keepdim=True)
        alone = alone / torch.where(largest > 0, largest, 1)
        weights = (self.confidence * (alone.logit() + 0.5)).clamp(0, 1)
        accepted = (~view.rejected).sum(1, keepdim=True).clamp(min=1)
        return Decision.from_credits(weights / accepted, view)


def _difference(history: Tensor) -> Tensor:
    """How little the history of each worker [E, n, d] resembles any other, [E, n] from 0 to 1, double."""
    unit = unit_rows(history)
    cosines = torch.bmm(unit, unit.mT).double()
    cosines = cosines.masked_fill(cosines > 1 - ROUNDING, 1)
    cosines.diagonal(dim1=1, dim2=2).zero_()
    most = cosines.amax(2)
    pardon = most[:, :, None] / torch.where(most > 0, most, 1)[:, None, :]
    return (1 - (cosines * pardon.clamp(max=1)).amax(2)).clamp(0, 1)
