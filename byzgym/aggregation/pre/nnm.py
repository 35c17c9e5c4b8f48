"""Nearest-neighbour mixing."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import EQUIVARIANT
from byzgym.aggregation.pre.base import Mixing
from byzgym.aggregation.pre.registry import registry
from byzgym.numerics.distances import squared_distances


@registry.built_in("nnm")
class NNM(Mixing):
    """Nearest-neighbour mixing of Allouah, Farhadkhani, Guerraoui, Gupta, Pinot and Stephan 2023, "Fixing by
    Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity" (https://arxiv.org/abs/2302.01772). It
    replaces every submission by the mean of the n - f submissions nearest to it, itself included.

    Row i of the result is ``1 / (n - f) sum_(j in N_i) x_j``. Of several equally near ones, the
    first count. Credits c for the rows are ``M^T c`` for the submissions, with M_ij = 1 / (n - f) where j is
    in N_i. The rule behind is told the same f.

    Condition: n >= 2f + 1, as the paper's theorems assume. Cost: n^2 d; memory: n d.

    Args:
        num_byzantine: The number f of Byzantine workers to expect.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]])
        >>> NNM(num_byzantine=2)(rows)[:, 0]  # three means of 0, 1, 2; one of 1, 2, 4; one of 2, 4, 100
        tensor([ 1.0000,  1.0000,  1.0000,  2.3333, 35.3333])
    """

    condition: ClassVar[str] = "n >= 2f + 1"
    uses_num_byzantine: ClassVar[bool] = True
    claims: ClassVar[frozenset[str]] = EQUIVARIANT | {"hull", "breakdown"}

    def max_byzantine(self, num_workers: int) -> int:
        """The largest f that this accepts for n workers (-1 where it accepts none)."""
        return (num_workers - 1) // 2

    def _matrix(self, gradients: Tensor) -> Tensor:
        keep = gradients.shape[-2] - self.num_byzantine
        squared = squared_distances(gradients)
        squared.diagonal(dim1=-2, dim2=-1).fill_(-1.0)  # itself first, also before equal ones
        nearest = squared.sort(dim=-1, stable=True).indices[..., :keep]
        return torch.zeros_like(squared).scatter_(-1, nearest, 1 / keep)
