"""Robust federated aggregation: a few steps towards the geometric median."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import HonestMajority, Weighting, combine_weights
from byzgym.aggregation.medoid import find_medoid
from byzgym.aggregation.registry import registry
from byzgym.numerics.distances import Geometry, row_norms
from byzgym.validation import check_bool, check_choice, check_int, check_real

LEAST = 1e-290
"""The smoothing is at least this, so that its inverse is finite."""


@registry.built_in("rfa")
class RFA(HonestMajority, Weighting):
    """Robust federated aggregation (RFA) of Pillutla, Kakade and Harchaoui 2022, "Robust Aggregation for
    Federated Learning" (https://arxiv.org/abs/1912.13445). It takes some steps of the smoothed Weiszfeld
    iteration towards the geometric median.

    A step weights each submission by ``1 / max(nu, ||x_i - z||)`` and moves z to the weighted mean. The
    credits are the last weights. `geometric_median` is the exact optimum. After few steps, outliers that are
    far enough away still pull: no number of steps is right for every attack.

    nu is absolute, as in the paper: submissions that are closer together than nu give the plain mean. The
    authors' own code starts at the mean, with nu=1e-5 and 4 steps (their first release) or nu=1e-6 and 5
    passes, the mean included (TensorFlow Federated). ByzFL starts at zero, with nu=0.1 and 3 steps, epfml
    with 8; FLPoison starts there with nu=1e-6 and 3 steps.

    Condition: n >= 2f + 1. Cost: n^2 d, and n^2 for each step. Not differentiable.

    Args:
        num_byzantine: Checked, but not used otherwise.
        iterations: The number of steps, at least 1. One step from zero is the paper's one-step RFA.
        smoothing: nu > 0.
        relative: Whether nu is in units of the median distance from the medoid, and so fits any scale.
        start: The first z: "mean", or "zero", which stands for the server's parameters.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]])
        >>> RFA(iterations=1)(rows), RFA(iterations=100)(rows)  # the median is 2
        (tensor([7.6062]), tensor([2.0000]))
    """

    # No breakdown, which only the exact geometric median has, and no scale: the smoothing is absolute.
    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "translation", "hull"})
    uses_num_byzantine: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def __init__(
        self,
        num_byzantine: int = 0,
        iterations: int = 3,
        smoothing: float = 1e-6,
        relative: bool = False,
        start: str = "mean",
    ) -> None:
        super().__init__(num_byzantine)
        self.iterations = check_int("iterations", iterations, low=1)
        self.smoothing = check_real("smoothing", smoothing, above=0)
        self.relative = check_bool("relative", relative)
        self.start = check_choice("start", start, ("mean", "zero"))

    def _credits(self, gradients: Tensor) -> Tensor:
        return self._weights(gradients).to(gradients.dtype)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return combine_weights(self._weights(gradients), gradients.detach())

    def _weights(self, gradients: Tensor) -> Tensor:
        """The credits [..., n], in double precision: the tiny ones of huge submissions count."""
        _, from_medoid, gram = find_medoid(gradients)
        unit = from_medoid.median(-1, keepdim=True).values if self.relative else 1.0
        smoothing = torch.as_tensor(self.smoothing * unit, device=gram.device).clamp_min(LEAST)
        if self.start == "zero":
            lengths = row_norms(gradients.detach()).reshape(from_medoid.shape)
            gram = Geometry(gradients).gram_about(lengths.argmin(1))  # the iteration begins near this row
        else:
            lengths = lengths_from_mean(gram, torch.full_like(from_medoid, 1 / from_medoid.shape[1]))
        for _ in range(self.iterations):
            weights = 1 / torch.maximum(lengths, smoothing)
            weights /= weights.sum(1, keepdim=True)
            lengths = lengths_from_mean(gram, weights)
        return weights.reshape(gradients.shape[:-1])


def lengths_from_mean(gram: Tensor, weights: Tensor) -> Tensor:
    """The distances [E, n] of rows from their mean with weights [E, n], from a Gram matrix [E, n, n]."""
    image = (gram * weights[:, None]).sum(-1)
    squared = gram.diagonal(dim1=-2, dim2=-1) - 2 * image + (weights * image).sum(1, keepdim=True)
    return squared.clamp_min(0).sqrt()
