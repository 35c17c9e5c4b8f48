"""Comparative gradient elimination."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from byzgym.aggregation.base import HonestMajority, Weighting, credit_lowest
from byzgym.aggregation.registry import registry
from byzgym.numerics.distances import row_norms


@registry.built_in("cge")
class CGE(HonestMajority, Weighting):
    """Comparative gradient elimination of Gupta, Liu and Vaidya 2020, "Byzantine Fault-Tolerant Distributed
    Machine Learning Using Stochastic Gradient Descent (SGD) and Norm-Based Comparative Gradient Elimination
    (CGE)" (https://arxiv.org/abs/2008.04699). It averages the n - f submissions with the smallest norms.

    Of equal norms, the first are kept. Where a text adds the kept submissions up, its learning rate is n - f
    times smaller than here; ByzPy and ByzantineMomentum average, too. A short submission in a wrong direction
    always gets through.

    Condition: n >= 2f + 1. Cost: n d.

    Example:
        >>> import torch
        >>> CGE(num_byzantine=1)(torch.tensor([[1.0, 0.0], [0.0, 3.0], [6.0, 8.0]]))  # norms 1, 3, 10
        tensor([0.5000, 1.5000])
    """

    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "scale", "hull", "breakdown"})

    def _credits(self, gradients: Tensor) -> Tensor:
        keep = gradients.shape[-2] - self.num_byzantine
        return credit_lowest(row_norms(gradients.detach()), keep).to(gradients.dtype)
