"""The covariance-bound agnostic filter."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import EQUIVARIANT, HonestMajority, Weighting, combine_weights
from byzgym.aggregation.medoid import find_medoid
from byzgym.aggregation.registry import registry


@registry.built_in("caf")
class CAF(HonestMajority, Weighting):
    """The covariance-bound agnostic filter (CAF) of Allouah, Guerraoui and Stephan 2025, "Towards Trustworthy
    Federated Learning with Untrusted Participants" (https://arxiv.org/abs/2505.01874). It lowers the weights
    of submissions that stand out in the direction of largest variance, step by step, and takes the best of
    the weighted means on the way.

    Weights c start at 1. A step takes the weighted mean m, the largest eigenvalue of the weighted covariance
    matrix and its eigenvector v, and multiplies each c_i by ``1 - t_i / max t``, ``t_i = <x_i - m, v>^2``.
    It ends when the c sum to n - 2f or less. The result is the m with the smallest eigenvalue, the first of
    several. The maximum is over the submissions that still have weight: one that has lost it would slow the
    others down for ever, as it does in ByzFL. ByzFL and ByzPy estimate v by one and three steps of the power
    method from a random vector; here it is exact.

    Condition: n >= 2f + 1. Cost: n^2 d, and n^3 for each of at most 2f + 1 steps. Not differentiable.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]])
        >>> CAF(num_byzantine=1)(rows)  # 100 loses its weight in the first step, the others a little
        tensor([1.7646])
    """

    claims: ClassVar[frozenset[str]] = EQUIVARIANT | {"hull", "breakdown"}
    differentiable: ClassVar[bool] = False

    def _credits(self, gradients: Tensor) -> Tensor:
        return self._weights(gradients).to(gradients.dtype)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return combine_weights(self._weights(gradients), gradients.detach())

    def _weights(self, gradients: Tensor) -> Tensor:
        """The credits [..., n], in double precision."""
        _, _, gram = find_medoid(gradients)  # [E, n, n]
        enough = gram.shape[1] - 2 * self.num_byzantine
        weights = torch.ones_like(gram[:, 0])
        least = torch.full_like(weights[:, :1], torch.inf)
        best = torch.zeros_like(weights)
        active = torch.ones_like(least, dtype=torch.bool)
        while active.any():
            total = weights.sum(1, keepdim=True)  # zero in a run whose last step took all weight
            shares = weights / total.masked_fill(total == 0, 1)
            largest, squares = _widest(gram, shares)
            better = active & (largest < least)
            least, best = torch.where(better, largest, least), torch.where(better, shares, best)
            most = squares.masked_fill(weights == 0, 0).amax(1, keepdim=True)
            active = active & (most > 0)
            lowered = weights * (1 - squares / most).clamp_min(0)
            weights = torch.where(active & (weights > 0), lowered, weights)
            active = active & (weights.sum(1, keepdim=True) > enough)
        return best.reshape(gradients.shape[:-1])


def _widest(gram: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue [E, 1] of the covariance matrix of rows with shares [E, n] that sum to 1, and
    the squared deviations [E, n] of the rows from their mean along its eigenvector.

    Both follow from a Gram matrix [E, n, n]: with rows y_i from the mean, the eigenvalue is that of the
    matrix sqrt(s_i s_j) <y_i, y_j>, and its eigenvector u gives the direction sum_i sqrt(s_i) u_i y_i.
    """
    image = (gram * shares[:, None]).sum(-1, keepdim=True)
    products = gram - image - image.mT + (shares[..., None] * image).sum(1, keepdim=True)
    root = shares.sqrt()
    values, vectors = torch.linalg.eigh(root[:, :, None] * products * root[:, None])
    largest = values[:, -1:].clamp_min(0)
    along = (products * (root * vectors[..., -1])[:, None]).sum(-1)
    return largest, along.square() / largest.clamp_min(torch.finfo(gram.dtype).tiny)
