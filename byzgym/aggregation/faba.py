"""FABA."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import EQUIVARIANT, HonestMajority, Weighting
from byzgym.aggregation.registry import registry
from byzgym.numerics.distances import squared_distances


@registry.built_in("faba")
class FABA(HonestMajority, Weighting):
    """FABA of Xia, Tao, Hao and Li 2019, "FABA: An Algorithm for Fast Aggregation against Byzantine Attacks
    in Distributed Neural Networks" (https://doi.org/10.24963/ijcai.2019/670). It drops f times the submission
    farthest from the mean of those left, and averages the rest.

    Of several equally far ones, the first is dropped. Algorithm 1 as printed, whose loop starts at k = 1,
    drops one less; f is what the paper's proof counts.

    Condition: n >= 2f + 1. Cost: n^2 d.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]])  # drops 100, then 4
        >>> FABA(num_byzantine=2)(rows)
        tensor([1.])
    """

    claims: ClassVar[frozenset[str]] = EQUIVARIANT | {"hull", "breakdown"}

    def _credits(self, gradients: Tensor) -> Tensor:
        left = torch.ones(gradients.shape[:-1], dtype=torch.float64, device=gradients.device)
        if self.num_byzantine:
            squared = squared_distances(gradients)
        for _ in range(self.num_byzantine):
            # The squared distance to the mean of k rows is 1/k times this, less the same for every row.
            # It is summed anew each time: subtracting a dropped outlier would leave its rounding error. It is
            # not a matrix product, in which the sums of equal rows may differ.
            total = (squared * left[..., None, :]).sum(-1)
            farthest = total.masked_fill_(left == 0, -1.0).argmax(-1, keepdim=True)
            left.scatter_(-1, farthest, 0.0)
        return (left / (gradients.shape[-2] - self.num_byzantine)).to(gradients.dtype)
