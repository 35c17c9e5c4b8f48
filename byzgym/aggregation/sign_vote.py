"""The majority vote of signs."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from byzgym.aggregation.base import HonestMajority
from byzgym.aggregation.registry import registry


@registry.built_in("sign_vote")
class SignVote(HonestMajority):
    """The majority vote of Bernstein, Zhao, Azizzadenesheli and Anandkumar 2019, "signSGD with Majority Vote
    is Communication Efficient And Fault Tolerant" (https://arxiv.org/abs/1810.05291). It gives, in each
    coordinate, the sign of the sum of the submissions' signs.

    That is 1, -1, or 0 where as many are positive as negative. Learning rates have to fit: the update has
    norm sqrt(d) or a little less, whatever the gradients' norms are. Blades' Signsgdmv returns the median.

    Condition: n >= 2f + 1. Cost: n d. Not differentiable.

    Args:
        num_byzantine: Checked, but not used otherwise.

    Example:
        >>> import torch
        >>> SignVote()(torch.tensor([[1.0, -2.0, 0.1], [7.0, 0.0, -5.0], [-20.0, -5.0, 0.0]]))
        tensor([ 1., -1.,  0.])
    """

    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "breakdown", "dimensional"})
    update_bound: ClassVar[str | None] = "only the signs of its entries count"
    uses_num_byzantine: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return gradients.detach().sign().sum(-2).sign()
