"""Norm clipping."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from byzgym.aggregation.base import Rule, combine_weights
from byzgym.aggregation.registry import registry
from byzgym.numerics.distances import row_norms
from byzgym.validation import check_real


@registry.built_in("norm_clipping")
class NormClipping(Rule):
    """Norm thresholding of Sun, Kairouz, Suresh and McMahan 2019, "Can You Really Backdoor Federated
    Learning?" (https://arxiv.org/abs/1911.07963). It shortens submissions to a largest norm and averages
    them.

    This is the mean of ``min(1, c / ||x_i||) x_i``. The weights sum to less than one, so the rule has no
    credits.

    Condition: n >= f + 1. Cost: n d.

    Args:
        num_byzantine: Not used.
        max_norm: The largest norm c > 0.

    Example:
        >>> import torch
        >>> NormClipping(max_norm=5.0)(torch.tensor([[3.0, 0.0], [30.0, 40.0]]))  # the second becomes 3, 4
        tensor([3., 2.])
    """

    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "breakdown", "dimensional"})
    update_bound: ClassVar[str | None] = "norm at most {max_norm}"
    uses_num_byzantine: ClassVar[bool] = False

    def __init__(self, num_byzantine: int = 0, max_norm: float = 2.0) -> None:
        super().__init__(num_byzantine)
        self.max_norm = check_real("max_norm", max_norm, above=0)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        factors = self.max_norm / row_norms(gradients).clamp_min(self.max_norm)
        return combine_weights(factors / gradients.shape[-2], gradients)
