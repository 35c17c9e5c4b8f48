"""FABA."""

from __future__ import annotations

import torch
from torch import Tensor

from byzgym.aggregation.base import HonestMajority, Weighting
from byzgym.numerics.distances import squared_distances
from byzgym.aggregation.registry import registry


@registry.built_in("faba")
class FABA(HonestMajority, Weighting):
    """Drop f times the submission farthest from the mean of those left; the mean of the rest, n >= 2f + 1.

    Of several equally far the first is dropped. Source: Xia et al., "FABA: An Algorithm for Fast
    Aggregation against Byzantine Attacks in Distributed Neural Networks", Algorithm 1, with the alpha n
    drops that its proof counts.
    """

    def _credits(self, gradients: Tensor) -> Tensor:
        left = torch.ones(gradients.shape[:-1], dtype=torch.float64, device=gradients.device)
        if self.num_byzantine:
            squared = squared_distances(gradients)
        for _ in range(self.num_byzantine):
            # The squared distance to the mean of k rows is 1/k times this, less the same for every row.
            # Summed anew each time: subtracting a dropped outlier would leave its rounding error.
            # And not as a matrix product, in which the sums of equal rows may differ.
            total = (squared * left[..., None, :]).sum(-1)
            farthest = total.masked_fill_(left == 0, -1.0).argmax(-1, keepdim=True)
            left.scatter_(-1, farthest, 0.0)
        return (left / (gradients.shape[-2] - self.num_byzantine)).to(gradients.dtype)
