"""The geometric median."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from byzgym.aggregation.base import EQUIVARIANT, HonestMajority, Weighting, combine_weights
from byzgym.aggregation.medoid import find_medoid
from byzgym.aggregation.registry import registry
from byzgym.numerics.distances import take_row
from byzgym.validation import check_int, check_real

LOOK_EVERY = 3
"""Steps between two looks at whether the iteration has converged. A look costs as much as a step."""

NEAR = 1e-3
"""Part of the median distance from the medoid up to which a submission at first counts as equal to it."""


@registry.built_in("geometric_median")
class GeometricMedian(HonestMajority, Weighting):
    """The geometric median (RFA) of Pillutla, Kakade and Harchaoui 2022, "Robust Aggregation for Federated
    Learning" (https://arxiv.org/abs/1912.13445). It takes the point z with the smallest sum of distances
    ||z - x_i|| from the submissions.

    Weiszfeld's iteration finds it, with the start and the test for an optimum at a submission of Vardi and
    Zhang 2000, "The multivariate L1-median and associated data depth"
    (https://doi.org/10.1073/pnas.97.4.1423). The credits are the last weights. ByzFL and krum smooth
    distances by 0.1 whatever their scale, so they return the mean of gradients with norms of 0.01 or less.

    Condition: n >= 2f + 1. Cost: n^2 d, and n^2 for each step. The aggregate is differentiable (once), by
    implicit differentiation; the credits are detached.

    Args:
        num_byzantine: Checked, but not used otherwise.
        tolerance: Stop when the mean of the unit vectors from z to the submissions, which is zero at the
            optimum, is shorter than this, above 0 and at most 1. Distances count as at least this part of the
            median distance from the medoid.
        max_iterations: Stop after this many steps in any case, at least 1.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -5.0]])
        >>> GeometricMedian()(rows).norm() < 1e-5  # it is where the diagonals cross
        tensor(True)
    """

    claims: ClassVar[frozenset[str]] = EQUIVARIANT | {"hull", "breakdown"}
    uses_num_byzantine: ClassVar[bool] = False

    def __init__(self, num_byzantine: int = 0, tolerance: float = 1e-6, max_iterations: int = 1000) -> None:
        super().__init__(num_byzantine)
        self.tolerance = check_real("tolerance", tolerance, high=1, above=0)
        self.max_iterations = check_int("max_iterations", max_iterations, low=1)

    def _credits(self, gradients: Tensor) -> Tensor:
        return self._weights(gradients)[0].to(gradients.dtype)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return _Optimum.apply(gradients, *self._weights(gradients))

    def _weights(self, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """The credits [..., n], and the distance [..., 1] within which a submission counts as being at z.

        Both are in double precision: the tiny credits of huge submissions count.
        """
        _, distances, gram = find_medoid(gradients)
        typical = distances.median(-1, keepdim=True).values
        least = self.tolerance * typical
        weights, settled = _first_weights(distances, gram, NEAR * typical)
        # Lengths are compared as squares.
        shortest = least.square()
        small = (self.tolerance * gradients.shape[-2]) ** 2
        squared_norms = gram.diagonal(dim1=-2, dim2=-1)
        for iteration in range(self.max_iterations):
            # A run that has converged stays where it is, whatever runs beside it.
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
        return weights.reshape(gradients.shape[:-1]), least.reshape(*gradients.shape[:-2], 1)


class _Optimum(torch.autograd.Function):
    """The weighted sum of the submissions, with the gradient of the geometric median.

    At the optimum z the unit vectors u_i = (z - x_i) / r_i, with r_i = ||z - x_i||, sum to zero.
    Differentiating this equation, with the weights w_i = (1 / r_i) / sum_j (1 / r_j), gives
    H dz = sum_i w_i (I - u_i u_i^T) dx_i. Here H = I - B^T B, where sqrt(w_i) u_i^T are the rows of B. Its
    inverse is I + B^T (I - B B^T)^-1 B, where B B^T is n x n. A submission within the distance ``least``
    counts as being at z: its u_i is zero.
    """

    @staticmethod
    def forward(ctx: Any, gradients: Tensor, weights: Tensor, least: Tensor) -> Tensor:
        ctx.save_for_backward(gradients, weights, least)
        return combine_weights(weights, gradients)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        gradients, weights, least = ctx.saved_tensors
        # Rows that are equal or nearly equal to z keep their digits about the row with the largest weight.
        rows = gradients.double() - take_row(gradients, weights.argmax(-1))[..., None, :]
        shares = weights[..., None]  # [..., n, 1]
        away = (shares * rows).sum(-2, keepdim=True) - rows  # [..., n, d]
        distances = torch.linalg.vector_norm(away, dim=-1, keepdim=True)
        units = torch.where(distances > least[..., None], away / distances, 0.0)
        factor = shares.sqrt() * units  # B
        identity = torch.eye(factor.shape[-2], dtype=factor.dtype, device=factor.device)
        # With all submissions on a line, H is singular along it; the result has no component there.
        inverse = torch.linalg.pinv(identity - factor @ factor.mT, hermitian=True)
        row = grad.double()[..., None, :]  # [..., 1, d]
        solved = row + (row @ factor.mT @ inverse) @ factor
        result = shares * (solved - (units @ solved.mT) * units)
        return result.to(gradients.dtype), None, None


def _apply(gram: Tensor, weights: Tensor) -> Tensor:
    """The product [E, n] of matrices [E, n, n] and vectors [E, n], for small n faster than torch.bmm."""
    return (gram * weights[:, None]).sum(-1)


def _first_weights(distances: Tensor, gram: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [E, n] one step down from the medoid, and where the medoid is already the optimum [E, 1].

    They follow from the distances [E, n] from the medoid and the Gram matrix [E, n, n] about it. If the
    optimum is a submission it is the medoid, and it is if the unit vectors from it to the others sum to no
    more than its multiplicity. If it is not, the first step leads below the objective of every submission, so
    the iteration cannot get stuck at one. Submissions that are all but equal to the medoid (within ``near``
    [E, 1]) count as equal for this step: out of their midst the iteration would take very many.
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
