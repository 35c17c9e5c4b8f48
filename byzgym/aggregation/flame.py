"""FLAME."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from byzgym.aggregation.base import HonestMajority, clip_factors, combine_weights
from byzgym.aggregation.drawing import DrawingRule
from byzgym.aggregation.registry import registry
from byzgym.numerics.clustering import cosine_distances, single_linkage
from byzgym.numerics.distances import row_norms
from byzgym.validation import check_real


@registry.built_in("flame")
class FLAME(DrawingRule, HonestMajority):
    """FLAME of Nguyen et al. 2022, "FLAME: Taming Backdoors in Federated Learning"
    (https://arxiv.org/abs/2101.02281). It averages the majority of submissions that point in similar
    directions, shortened to the median norm, and adds noise.

    HDBSCAN with min_samples 1 clusters the submissions by their cosine distances into one cluster of more
    than half of them, and outliers. Only one cluster can be so large, so what HDBSCAN does is this: it links
    submissions at growing distances until more than n / 2 are connected, and these are the cluster. Their
    ``min(1, S / ||x_i||) x_i`` are averaged, with S the median norm of all n, and normal noise with standard
    deviation ``noise S`` is added to every coordinate. The weights can sum to less than one, so the rule has
    no credits.

    The paper clusters models (the server's parameters plus the submission), as FLPoison does; a rule of
    submissions alone clusters these, as CRYPTO-KU's library does. The paper has ``noise = 0.001`` for images,
    and ``sqrt(2 ln(1.25 / delta)) / epsilon`` for (epsilon, delta)-differential privacy, which CRYPTO-KU's
    library takes, with 3000 and 0.01: 0.00104. FLPoison has 0.000012, times the standard deviation of each
    layer's parameters.

    Condition: n >= 2f + 1. Cost: n^2 d and n^3.

    Args:
        num_byzantine: Checked, but not used otherwise.
        noise: The noise level lambda, at least 0.
        seed: Of the draws, at least 0; see `DrawingRule`.

    Example:
        >>> rows = torch.tensor([[3.0, 4.0], [4.0, 3.0], [5.0, 0.0], [-4.0, -3.0], [60.0, 80.0]])
        >>> FLAME(num_byzantine=2, noise=0)(rows)  # of 3, 4 and 4, 3 and 60, 80, which becomes 3, 4
        tensor([3.3333, 3.6667])
    """

    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "scale", "breakdown"})
    update_bound: ClassVar[str | None] = "norm at most the median of the norms in the round"
    uses_num_byzantine: ClassVar[bool] = False

    def __init__(self, num_byzantine: int = 0, noise: float = 0.001, seed: int = 0) -> None:
        super().__init__(num_byzantine, seed)
        self.noise = check_real("noise", noise, low=0)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        norms = row_norms(gradients)
        middle = norms.quantile(0.5, -1, keepdim=True)
        kept = majority_cluster(cosine_distances(gradients)).double()
        factors = clip_factors(norms, middle) * kept / kept.sum(-1, keepdim=True)
        total = combine_weights(factors, gradients)
        if not self.noise:
            return total
        draws = [
            generator.standard_normal(gradients.shape[-1], dtype=np.float32)
            for generator in self._generators(gradients)
        ]
        unit = torch.from_numpy(np.stack(draws)).to(norms).reshape(total.shape)
        return total + (self.noise * middle * unit).to(total.dtype)


def majority_cluster(distances: Tensor) -> Tensor:
    """Which of n points are in the first cluster of more than n / 2 of them: bool [..., n].

    Clusters are what is connected by distances [..., n, n] up to a threshold, and the first one is that of
    the smallest threshold.

    >>> points = torch.tensor([0.0, 9.0, 10.0, 11.5, 30.0])
    >>> majority_cluster((points[:, None] - points).abs())
    tensor([False,  True,  True,  True, False])
    """
    num_points = distances.shape[-1]
    reach = single_linkage(distances.reshape(-1, num_points, num_points))
    threshold = reach.sort(-1).values[..., num_points // 2]  # at which a point is among more than n / 2
    member = threshold == threshold.amin(-1, keepdim=True)
    return member.reshape(distances.shape[:-1])
