"""Rules that bound the norms of the submissions."""

from __future__ import annotations

import torch
from torch import Tensor

from byzgym.aggregation.base import Rule, combine_weights
from byzgym.numerics.distances import row_norms
from byzgym.aggregation.registry import registry
from byzgym.validation import check_real


@registry.built_in("norm_clipping")
class NormClipping(Rule):
    """The mean of the submissions scaled down to a largest norm: the mean of ``min(1, c / ||x||) x``.

    Its weights sum to less than one, so it has no credits: a simplex would need a slot for the zero vector.
    Source: Sun et al., "Can You Really Backdoor Federated Learning?", section 4 (norm thresholding).

    Args:
        num_byzantine: Not used; any f below n is accepted.
        max_norm: The largest norm c > 0.
    """

    def __init__(self, num_byzantine: int = 0, max_norm: float = 2.0) -> None:
        super().__init__(num_byzantine)
        self.max_norm = check_real("max_norm", max_norm, above=0)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        norms = row_norms(gradients)
        factors = torch.where(norms > self.max_norm, self.max_norm / norms, 1.0) / gradients.shape[-2]
        return combine_weights(factors, gradients)
