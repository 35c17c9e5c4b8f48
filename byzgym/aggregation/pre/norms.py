"""Pre-aggregators that change the norms of submissions and keep their directions."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.pre.base import Scaling
from byzgym.aggregation.pre.registry import registry
from byzgym.numerics.distances import row_norms
from byzgym.validation import check_real

BOUNDED = frozenset({"breakdown", "dimensional"})
"""The ``claims`` of a rule that nothing moves without bound."""


@registry.built_in("static_clipping")
class StaticClipping(Scaling):
    """Static clipping, as Allouah et al. 2024 call it in "Adaptive Gradient Clipping for Robust Federated
    Learning" (https://arxiv.org/abs/2405.14432). It shortens submissions to a largest norm.

    Row i of the result is ``min(1, c / ||x_i||) x_i``. Credits are multiplied by the same factors.

    Condition: n >= f + 1. Cost: n d.

    Args:
        num_byzantine: Not used.
        max_norm: The largest norm c > 0; 2 in ByzFL, and here.

    Example:
        >>> StaticClipping(max_norm=5.0)(torch.tensor([[3.0, 0.0], [30.0, 40.0]]))
        tensor([[3., 0.],
                [3., 4.]])
    """

    claims: ClassVar[frozenset[str]] = BOUNDED | {"permutation"}
    grants: ClassVar[frozenset[str]] = BOUNDED
    update_bound: ClassVar[str | None] = "norm at most {max_norm}"

    def __init__(self, num_byzantine: int = 0, max_norm: float = 2.0) -> None:
        super().__init__(num_byzantine)
        self.max_norm = check_real("max_norm", max_norm, above=0)

    def _factors(self, gradients: Tensor) -> Tensor:
        return self.max_norm / row_norms(gradients).clamp_min(self.max_norm)


@registry.built_in("arc")
class ARC(Scaling):
    """Adaptive robust clipping (ARC) of Allouah, Guerraoui, Gupta, Jellouli, Rizk and Stephan 2024, "Adaptive
    Gradient Clipping for Robust Federated Learning" (https://arxiv.org/abs/2405.14432). It shortens the
    longest submissions to the norm of the longest one left.

    The k = floor(2 f / n (n - f)) longest submissions get the norm of the one that is k + 1st, as in ByzFL
    (which knows the paper by its first title, "The Vital Role of Gradient Clipping in Byzantine-Resilient
    Distributed Learning", and changes what it is given). Credits are multiplied by the same factors. The rule
    behind is told the same f.

    Condition: n >= 2f + 1, as the paper assumes. Cost: n d.

    Args:
        num_byzantine: The number f of Byzantine workers to expect.

    Example:
        >>> rows = torch.tensor([[1.0], [-2.0], [3.0], [4.0], [-100.0]])
        >>> ARC(num_byzantine=1)(rows)[:, 0]  # k = floor(8 / 5)
        tensor([ 1., -2.,  3.,  4., -4.])
    """

    condition: ClassVar[str] = "n >= 2f + 1"
    uses_num_byzantine: ClassVar[bool] = True
    claims: ClassVar[frozenset[str]] = BOUNDED | {"permutation", "scale"}
    grants: ClassVar[frozenset[str]] = frozenset({"breakdown"})  # the f longest are shortened, at least
    update_bound: ClassVar[str | None] = "the longest submissions get the norm of the longest one left"

    def max_byzantine(self, num_workers: int) -> int:
        """The largest f that this accepts for n workers (-1 where it accepts none)."""
        return (num_workers - 1) // 2

    def _factors(self, gradients: Tensor) -> Tensor:
        n, f = gradients.shape[-2], self.num_byzantine
        norms = row_norms(gradients)
        bound = norms.sort(dim=-1, descending=True).values[..., 2 * f * (n - f) // n, None]
        return torch.where(norms > bound, bound / norms, 1.0)


@registry.built_in("normalize")
class Normalize(Scaling):
    """Normalised gradients of Zuo, Yan, Fan, Shen, Zhao, Xu and Hu 2025, "Efficient Federated Learning
    against Byzantine Attacks and Data Heterogeneity via Aggregating Normalized Gradients"
    (https://arxiv.org/abs/2408.09539). It divides every submission by its norm.

    Row i of the result is ``x_i / ||x_i||``; zero rows stay zero. ``normalize+mean`` is the paper's Fed-NGA
    with equal weights. Credits are divided by the norms. Where submissions are shorter than 1, their sum may
    be above 1; a decision then has none.

    Condition: n >= f + 1. Cost: n d.

    Args:
        num_byzantine: Not used.

    Example:
        >>> Normalize()(torch.tensor([[3.0, 4.0], [0.0, 0.5]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 1.0000]])
    """

    linear: ClassVar[bool] = False
    claims: ClassVar[frozenset[str]] = BOUNDED | {"permutation"}
    grants: ClassVar[frozenset[str]] = BOUNDED
    update_bound: ClassVar[str | None] = "norm set to 1"

    def _factors(self, gradients: Tensor) -> Tensor:
        norms = row_norms(gradients)
        return torch.where(norms > 0, 1 / norms, 0.0)
