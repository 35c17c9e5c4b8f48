"""AutoGM: the geometric median with weights of its own choice."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import HonestMajority, Weighting, combine_weights
from byzgym.aggregation.geometric_median import GeometricMedian
from byzgym.aggregation.medoid import find_medoid
from byzgym.aggregation.registry import registry
from byzgym.aggregation.rfa import lengths_from_mean
from byzgym.validation import check_int, check_real


@registry.built_in("auto_gm")
class AutoGM(HonestMajority, Weighting):
    """AutoGM of Li, Ngai and Voigt 2023, "Byzantine-Robust Aggregation in Federated Learning Empowered
    Industrial IoT" (https://ieeexplore.ieee.org/document/9614992). It takes a weighted geometric median whose
    weights are chosen with it, so that submissions far away get none.

    The point z and the weights a on the simplex minimise ``sum_i a_i ||x_i - z|| + lambda / 2 ||a||^2``. Two
    steps alternate, from the geometric median: ``a_i = max(eta - ||x_i - z||, 0) / lambda`` with the eta for
    which these sum to 1, and the smoothed Weiszfeld iteration for z (see `RFA`). The credits are its last
    weights. Both lambda and the smoothing are absolute: a lambda that is large beside the distances gives the
    geometric median, a small one the submission nearest to it.

    This is what the authors' own code does (Blades), but for the order in which it looks for eta: it takes
    the submissions as they come, not by their distance.

    Condition: n >= 2f + 1. Cost: n^2 d, and n^2 for each step. Not differentiable.

    Args:
        num_byzantine: Checked, but not used otherwise.
        regularization: lambda > 0; the number n of submissions if None, as in Blades.
        smoothing: The least distance in the Weiszfeld iteration, above 0.
        tolerance: Stop when a step lowers the objective by no more than this part of it, at least 0.
        max_iterations: Stop after this many steps of either kind in any case, at least 1.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]])
        >>> AutoGM(regularization=4.0).credits(rows)
        tensor([0., 0., 1., 0., 0.])
        >>> square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0], [0.0, 9.0]])
        >>> AutoGM(regularization=4.0).credits(square)[4], AutoGM(regularization=1e6).credits(square)[4]
        (tensor(0.), tensor(0.0393))
    """

    # A submission farther than lambda from the nearest one has no weight, so far ones never get any.
    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "translation", "hull", "breakdown"})
    uses_num_byzantine: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def __init__(
        self,
        num_byzantine: int = 0,
        regularization: float | None = None,
        smoothing: float = 1e-6,
        tolerance: float = 1e-10,
        max_iterations: int = 100,
    ) -> None:
        super().__init__(num_byzantine)
        if regularization is not None:
            regularization = check_real("regularization", regularization, above=0)
        self.regularization = regularization
        self.smoothing = check_real("smoothing", smoothing, low=1e-290)
        self.tolerance = check_real("tolerance", tolerance, low=0)
        self.max_iterations = check_int("max_iterations", max_iterations, low=1)

    def _credits(self, gradients: Tensor) -> Tensor:
        return self._weights(gradients).to(gradients.dtype)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return combine_weights(self._weights(gradients), gradients.detach())

    def _weights(self, gradients: Tensor) -> Tensor:
        """The credits [..., n], in double precision."""
        _, _, gram = find_medoid(gradients)
        start, _ = GeometricMedian()._weights(gradients)
        weights = start.reshape(gram.shape[:2])  # [E, n], which make z
        strength = self.regularization or float(gram.shape[1])
        last = torch.full_like(weights[:, :1], torch.inf)
        settled = torch.zeros_like(last, dtype=torch.bool)
        for _ in range(self.max_iterations):
            shares = choose_shares(lengths_from_mean(gram, weights), strength)
            moved, spread = self._median(gram, shares, weights)
            weights = torch.where(settled, weights, moved)  # a settled run ignores what is beside it
            objective = spread + strength / 2 * shares.square().sum(1, keepdim=True)
            settled = settled | ~(last - objective > self.tolerance * objective)
            if settled.all():
                break
            last = objective
        return weights.reshape(gradients.shape[:-1])

    def _median(self, gram: Tensor, shares: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The weights [E, n] that make the median with these shares [E, n], and its sum of distances [E, 1].

        The iteration begins with given weights [E, n].
        """
        lengths = lengths_from_mean(gram, weights)
        last = (shares * lengths).sum(1, keepdim=True)
        settled = torch.zeros_like(last, dtype=torch.bool)
        for _ in range(self.max_iterations):
            inverse = shares / lengths.clamp_min(self.smoothing)
            weights = torch.where(settled, weights, inverse / inverse.sum(1, keepdim=True))
            lengths = lengths_from_mean(gram, weights)
            spread = (shares * lengths).sum(1, keepdim=True)
            settled = settled | ~(last - spread > self.tolerance * spread)
            if settled.all():
                break
            last = spread
        return weights, spread


def choose_shares(lengths: Tensor, strength: float) -> Tensor:
    """The shares [E, n] on the simplex that minimise ``sum a_i l_i + strength / 2 ||a||^2``.

    >>> choose_shares(torch.tensor([[1.0, 3.0, 9.0]]), strength=4.0)  # eta = (1 + 3 + 4) / 2
    tensor([[0.7500, 0.2500, 0.0000]])
    """
    excess = lengths - lengths.amin(1, keepdim=True)  # only differences count, and these keep their digits
    ordered = excess.sort(1).values
    counts = torch.arange(1, lengths.shape[1] + 1, device=lengths.device)
    thresholds = (ordered.cumsum(1) + strength) / counts
    positive = (thresholds > ordered).sum(1, keepdim=True)
    return (thresholds.gather(1, positive - 1) - excess).clamp_min(0) / strength
