"""The mean, which no attack needs to fear."""

from __future__ import annotations

from torch import Tensor

from byzgym.aggregation.base import Weighting
from byzgym.aggregation.received import is_finite
from byzgym.aggregation.registry import registry
from byzgym.ambient import without_autocast


@registry.built_in("mean")
class Mean(Weighting):
    """The mean of the submissions: the aggregate when nobody is Byzantine, and what attacks aim at.

    One Byzantine worker can make it any vector (Blanchard et al., "Machine Learning with Adversaries:
    Byzantine Tolerant Gradient Descent", Lemma 1). It makes no use of ``num_byzantine``.
    """

    @without_autocast
    def __call__(self, gradients: Tensor) -> Tensor:
        """Aggregate, see `Rule.__call__`."""
        self.check(gradients)
        total = gradients.mean(-2)
        # It is finite only if every submission is, so there is no need to look at them first.
        return total if is_finite(total) else super().__call__(gradients)

    def _credits(self, gradients: Tensor) -> Tensor:
        return gradients.new_full(gradients.shape[:-1], 1 / gradients.shape[-2])
