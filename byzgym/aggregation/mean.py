"""The arithmetic mean."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import EQUIVARIANT, Weighting
from byzgym.aggregation.registry import registry
from byzgym.ambient import without_autocast
from byzgym.numerics.finite import is_finite


@registry.built_in("mean")
class Mean(Weighting):
    """The arithmetic mean; not robust. A single Byzantine worker can turn it into any vector, by lemma 1 of
    Blanchard, El Mhamdi, Guerraoui and Stainer 2017, "Machine Learning with Adversaries: Byzantine Tolerant
    Gradient Descent" (preprint: https://arxiv.org/abs/1703.02757).

    Condition: n >= f + 1. Cost: n d.

    Example:
        >>> Mean()(torch.tensor([[1.0], [2.0], [9.0]]))
        tensor([4.])
    """

    claims: ClassVar[frozenset[str]] = EQUIVARIANT | {"hull"}
    uses_num_byzantine: ClassVar[bool] = False

    @without_autocast
    def __call__(self, gradients: Tensor) -> Tensor:
        """Aggregate, see `Rule.__call__`."""
        self.check(gradients)
        total = gradients.mean(-2)
        # It is finite only if every submission is, so there is no need to look at them first.
        return total if is_finite(total) else super().__call__(gradients)

    def _credits(self, gradients: Tensor) -> Tensor:
        return gradients.new_full(gradients.shape[:-1], 1 / gradients.shape[-2])

    def _credits_accepted(self, gradients: Tensor, accepted: Tensor | None, rest: float) -> Tensor:
        """See `Weighting`; rounds of diverged runs take no longer than others."""
        if accepted is None or not gradients.numel():
            return super()._credits_accepted(gradients, accepted, rest)
        counts = accepted.sum(-1, keepdim=True)
        return torch.where(counts > 0, accepted.to(gradients.dtype) / counts.clamp(min=1), rest)
