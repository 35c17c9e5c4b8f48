"""The geometric median and its restriction to the submissions, the medoid."""

from __future__ import annotations

import torch
from torch import Tensor

from byzgym.aggregation.base import HonestMajority, Weighting, combine_weights
from byzgym.numerics.distances import Geometry, shift_gram
from byzgym.aggregation.registry import registry
from byzgym.numerics.distances import take_row
from byzgym.validation import check_int, check_real

LOOK_EVERY = 3
"""Steps of Weiszfeld's iteration from one look at how far they still go to the next, which costs as much."""

NEAR = 1e-3
"""Part of the median distance from the medoid up to which a submission is at first taken to equal it."""


@registry.built_in("medoid")
class Medoid(HonestMajority, Weighting):
    """The submission with the smallest sum of distances to all the others, n >= 2f + 1.

    Source: Xie, Koyejo and Gupta, "Generalized Byzantine-tolerant SGD", Definition 9. It makes no use of
    ``num_byzantine`` but for its condition.
    """

    def _credits(self, gradients: Tensor) -> Tensor:
        best = _medoid(gradients)[0].reshape(*gradients.shape[:-2], 1)
        return gradients.new_zeros(gradients.shape[:-1]).scatter_(-1, best, 1.0)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return take_row(gradients, _medoid(gradients)[0].reshape(gradients.shape[:-2]))


@registry.built_in("geometric_median")
class GeometricMedian(HonestMajority, Weighting):
    """The point with the smallest sum of distances to the submissions, n >= 2f + 1.

    Source: Xie, Koyejo and Gupta, "Generalized Byzantine-tolerant SGD", Definition 6; the robust aggregation
    of Pillutla, Kakade and Harchaoui, "Robust Aggregation for Federated Learning" (RFA). Weiszfeld's
    iteration with the start and the test for an optimum at a data point of Vardi and Zhang, "The
    multivariate L1-median and associated data depth". It runs on inner products, so that a step costs
    n^2 and not n d; the credits are its last weights. It makes no use of ``num_byzantine`` but for its
    condition.

    Args:
        num_byzantine: The number f of Byzantine workers to expect.
        tolerance: Stop when the mean of the unit vectors to the submissions, which is zero at the optimum, is
            shorter than this, above 0 and at most 1. Distances are taken to be at least this part of the
            median distance from the medoid.
        max_iterations: Stop after so many steps in any case, at least 1.
    """

    def __init__(self, num_byzantine: int = 0, tolerance: float = 1e-6, max_iterations: int = 1000) -> None:
        super().__init__(num_byzantine)
        self.tolerance = check_real("tolerance", tolerance, high=1, above=0)
        self.max_iterations = check_int("max_iterations", max_iterations, low=1)

    def _credits(self, gradients: Tensor) -> Tensor:
        return self._weights(gradients).to(gradients.dtype)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return combine_weights(self._weights(gradients), gradients)

    def _weights(self, gradients: Tensor) -> Tensor:
        """The credits in double precision: small as they are, those of huge submissions count."""
        _, distances, gram = _medoid(gradients)
        typical = distances.median(-1, keepdim=True).values
        weights, settled = _first_weights(distances, gram, NEAR * typical)
        # Lengths are compared as squares.
        shortest = (self.tolerance * typical).square_()
        small = (self.tolerance * gradients.shape[-2]) ** 2
        squared_norms = gram.diagonal(dim1=-2, dim2=-1)
        for iteration in range(self.max_iterations):
            # A run that has arrived stays where it is, whatever runs beside it.
            if iteration % LOOK_EVERY == 0 and settled.all():
                break
            image = _apply(gram, weights)
            squared = squared_norms - 2 * image + (weights * image).sum(1, keepdim=True)
            inverse = torch.maximum(squared, shortest).rsqrt_()
            total = inverse.sum(1, keepdim=True)
            inverse /= total
            updated = torch.where(settled, weights, inverse)
            if iteration % LOOK_EVERY == LOOK_EVERY - 1:
                # A step is the sum of the unit vectors over `total`; beside a submission it is short anyway.
                step = updated - weights
                pull = (step * _apply(gram, step)).sum(1, keepdim=True) * total.square_()
                settled = settled | (pull <= small)
            weights = updated
        return weights.reshape(gradients.shape[:-1])


def _apply(gram: Tensor, weights: Tensor) -> Tensor:
    """The product [E, n] of matrices [E, n, n] and vectors [E, n], for small n faster than torch.bmm."""
    return (gram * weights[:, None]).sum(-1)


def _medoid(gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The medoid of each run, the distances from it and the Gram matrix about it.

    Sums of distances are of no use beside an outlier that swallows all their digits. What is summed here is
    how much farther a row is from each other row than some central row is: |a| - |b| = (a² - b²)/(|a| + |b|),
    with the numerator from inner products about the central row.

    Returns:
        Shapes [E], [E, n] and [E, n, n], the latter two in double precision.
    """
    geometry = Geometry(gradients)
    distances = geometry.squared.sqrt()
    num_rows = distances.shape[-1]
    central = distances.sort(dim=-1).values[..., num_rows // 2].argmin(-1)
    gram = geometry.gram_about(central)
    from_central = _row_of(distances, central)
    numerator = gram.diagonal(dim1=-2, dim2=-1)[:, :, None] - 2 * gram
    denominator = distances + from_central[:, None, :]
    excess = torch.where(denominator > 0, numerator / denominator, 0.0).sum(-1)
    medoid = excess.argmin(-1)
    return medoid, _row_of(distances, medoid), shift_gram(gram, medoid)


def _row_of(matrix: Tensor, index: Tensor) -> Tensor:
    """The row [E, n] of a matrix [E, n, n] at an index [E]."""
    return matrix.gather(1, index[:, None, None].expand(-1, 1, matrix.shape[-1]))[:, 0]


def _first_weights(distances: Tensor, gram: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [E, n] one step down from the medoid, and where that is the optimum already [E, 1].

    If the optimum is a data point it is the medoid, and it is if the unit vectors from it to the other
    points sum to no more than its multiplicity. If it is not, a first step leads below the objective of
    every data point, so that the iteration can never get stuck in one. Submissions that are all but equal to
    the medoid count as equal for this step: out of their midst the iteration would take very many.

    Args:
        distances: Distances from the medoid, shape [E, n].
        gram: Gram matrix about the medoid, shape [E, n, n].
        near: Distances up to which they are all but equal, shape [E, 1].
    """
    at_medoid = distances <= near
    multiplicity = at_medoid.sum(-1, keepdim=True).double()
    inverse = torch.where(at_medoid, 0.0, 1 / distances)
    pull = (inverse * _apply(gram, inverse)).sum(-1, keepdim=True).clamp_min(0).sqrt()
    stays = pull <= multiplicity
    stay = torch.where(stays, 1.0, multiplicity / pull)
    away = torch.where(stays, 0.0, inverse / inverse.sum(-1, keepdim=True))
    exact = (distances.masked_fill(~at_medoid, 0) == 0).all(-1, keepdim=True)
    return stay * at_medoid / multiplicity + (1 - stay) * away, stays & exact
