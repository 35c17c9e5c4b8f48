"""The medoid."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import EQUIVARIANT, HonestMajority, Weighting
from byzgym.aggregation.registry import registry
from byzgym.numerics.distances import Geometry, shift_gram, take_row


@registry.built_in("medoid")
class Medoid(HonestMajority, Weighting):
    """The medoid of Xie, Koyejo and Gupta 2018, "Generalized Byzantine-tolerant SGD"
    (https://arxiv.org/abs/1802.10116). It takes the submission with the smallest sum of distances to the
    others.

    The first of several wins (definition 9). The GAA paper calls the rule GeoMed. It is not Byzantine
    resilient in their sense, unlike the geometric median: Byzantine submissions near the honest ones can
    choose it against their direction, but cannot carry it away from them where n >= 2f + 1.

    Condition: n >= 2f + 1. Cost: n^2 d.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]])  # sums: 107, 104, 103, 105, 393
        >>> Medoid()(rows)
        tensor([2.])
    """

    # Breakdown is less than resilience: most of the distances in a sum are to honest submissions.
    claims: ClassVar[frozenset[str]] = EQUIVARIANT | {"hull", "breakdown"}
    uses_num_byzantine: ClassVar[bool] = False

    def _credits(self, gradients: Tensor) -> Tensor:
        best = find_medoid(gradients)[0].reshape(*gradients.shape[:-2], 1)
        return gradients.new_zeros(gradients.shape[:-1]).scatter_(-1, best, 1.0)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return take_row(gradients, find_medoid(gradients)[0].reshape(gradients.shape[:-2]))


def find_medoid(gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The medoid of each run, the distances from it and the Gram matrix about it.

    An outlier would swallow all digits of a sum of distances. What is summed here is how much farther a row
    is from each other row than some central row is: |a| - |b| = (a² - b²)/(|a| + |b|), with the numerator
    from inner products about the central row.

    Returns:
        Shapes [E], [E, n] and [E, n, n], the latter two in double precision.
    """
    geometry = Geometry(gradients)
    distances = geometry.squared.sqrt()
    num_rows = distances.shape[-1]
    central = distances.sort(dim=-1).values[..., num_rows // 2].argmin(-1)
    gram = geometry.gram_about(central)
    from_central = take_row(distances, central)
    numerator = gram.diagonal(dim1=-2, dim2=-1)[:, :, None] - 2 * gram
    denominator = distances + from_central[:, None, :]
    excess = torch.where(denominator > 0, numerator / denominator, 0.0).sum(-1)
    medoid = excess.argmin(-1)
    return medoid, take_row(distances, medoid), shift_gram(gram, medoid)
