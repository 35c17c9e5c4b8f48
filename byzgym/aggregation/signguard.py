"""SignGuard."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import HonestMajority, clip_factors, combine_weights
from byzgym.aggregation.drawing import DrawingRule, take_columns
from byzgym.aggregation.registry import registry
from byzgym.numerics.clustering import largest_mean_shift_cluster
from byzgym.numerics.distances import row_norms
from byzgym.validation import check_real

QUANTILE = 0.5
"""The bandwidth is the mean distance from the nearest half of the submissions."""


@registry.built_in("signguard")
class SignGuard(DrawingRule, HonestMajority):
    """SignGuard of Xu, Huang, Song and Lan 2022, "Byzantine-robust Federated Learning through Collaborative
    Malicious Gradient Filtering" (https://arxiv.org/abs/2109.05872). It averages the submissions with usual
    norms and usual shares of positive and negative signs, shortened to the median norm.

    With M the median norm, norms are usual from ``lower M`` to ``upper M``. The shares of positive, zero and
    negative values in random coordinates are three features of a submission; the mean shift clusters them,
    and the largest cluster is usual. Then the mean is of ``min(1, M / ||x_i||) x_i``. Where no submission is
    usual in both ways, those with usual norms are taken; the paper does not say. The weights can sum to less
    than one, so the rule has no credits.

    The bandwidth of the mean shift is that of the authors' code. Their code also divides each share by the
    largest of all submissions, and draws one range of neighbouring coordinates; of an even number of norms it
    clips to the lower one in the middle. Blades clusters with k-means, from all coordinates. The paper's
    SignGuard-Sim and SignGuard-Dist are not here.

    Condition: n >= 2f + 1. Cost: n d, and n^2 for each step of the mean shift.

    Args:
        num_byzantine: Checked, but not used otherwise.
        lower: The smallest usual norm, in units of M, from 0 to 1.
        upper: The largest usual norm, in units of M, at least 2, so that there always is a usual one.
        portion: The part of the coordinates to draw, above 0 and at most 1; one coordinate at least.
        seed: Of the draws, at least 0; see `DrawingRule`.

    Example:
        >>> rows = torch.tensor([[3.0, 4.0], [4.0, 3.0], [5.0, 0.1], [-4.0, -3.0], [60.0, 80.0]])
        >>> SignGuard(num_byzantine=2, portion=1.0)(rows)  # without the fourth and the fifth
        tensor([3.9997, 2.3667])
    """

    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "scale", "breakdown"})
    update_bound: ClassVar[str | None] = "norm at most the median of the norms in the round"
    uses_num_byzantine: ClassVar[bool] = False

    def __init__(
        self,
        num_byzantine: int = 0,
        lower: float = 0.1,
        upper: float = 3.0,
        portion: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(num_byzantine, seed)
        self.lower = check_real("lower", lower, low=0, high=1)
        self.upper = check_real("upper", upper, low=2)
        self.portion = check_real("portion", portion, above=0, high=1)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        norms = row_norms(gradients)
        middle = norms.quantile(0.5, -1, keepdim=True)
        usual = (norms >= self.lower * middle) & (norms <= self.upper * middle)
        features = self._sign_shares(gradients.detach())
        cluster = largest_mean_shift_cluster(features.reshape(-1, *features.shape[-2:]), QUANTILE)
        kept = usual & cluster.reshape(usual.shape)
        kept = torch.where(kept.any(-1, keepdim=True), kept, usual).double()
        factors = clip_factors(norms, middle) * kept / kept.sum(-1, keepdim=True)
        return combine_weights(factors, gradients)

    def _sign_shares(self, rows: Tensor) -> Tensor:
        """The shares [..., n, 3] of positive, zero and negative values among the drawn coordinates."""
        dimension = rows.shape[-1]
        count = max(1, int(self.portion * dimension))
        if count < dimension:
            rows = take_columns(rows, self._draw_columns(rows, count)[0])
        counts = [signs.sum(-1) for signs in (rows > 0, rows == 0, rows < 0)]
        return torch.stack(counts, -1).double() / count
