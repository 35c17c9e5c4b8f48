"""ClippedClustering."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import HonestMajority, clip_factors, combine_weights
from byzgym.aggregation.policy import Decision
from byzgym.aggregation.registry import registry
from byzgym.aggregation.view import ServerView
from byzgym.ambient import without_autocast
from byzgym.memory import Memory
from byzgym.numerics.clustering import average_linkage, cosine_distances
from byzgym.numerics.distances import row_norms
from byzgym.validation import check_int


@registry.built_in("clipped_clustering")
class ClippedClustering(HonestMajority):
    """ClippedClustering of Li, Ngai and Voigt 2023, "An Experimental Study of Byzantine-Robust Aggregation
    Schemes in Federated Learning" (https://arxiv.org/abs/2302.07173). It averages the larger of two clusters
    of submissions, shortened to the median norm.

    The clusters are those of agglomerative clustering with average linkage, by cosine distance. The larger
    one's ``min(1, M / ||x_i||) x_i`` are averaged. Where both are equally large, all submissions are; the
    paper does not say, and the authors' code (Blades) takes the cluster that comes first. The weights can sum
    to less than one, so the rule has no credits.

    M is the median of all norms received so far. As a policy the rule keeps them in ``view.memory``, if there
    is one. A call with a tensor, or a view without a memory, has only the norms of the present round. Blades
    also bounds M by 100,000.

    Condition: n >= 2f + 1. Cost: n^2 d and n^3.

    Args:
        num_byzantine: Checked, but not used otherwise.
        history: The number of rounds, the present one included, whose norms count, at least 1. In the paper
            all do; the memory is as long as this, so long runs need a bound.

    Example:
        >>> rows = torch.tensor([[3.0, 4.0], [4.0, 3.0], [6.0, 8.0], [-4.0, -3.0], [-4.0, -3.1]])
        >>> ClippedClustering(num_byzantine=2)(rows)  # of 3, 4 and 4, 3 and 6, 8, which becomes 3, 4
        tensor([3.3333, 3.6667])
    """

    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "scale", "breakdown"})
    update_bound: ClassVar[str | None] = "norm at most the median of the norms received so far"
    uses_num_byzantine: ClassVar[bool] = False

    def __init__(self, num_byzantine: int = 0, history: int = 1000) -> None:
        super().__init__(num_byzantine)
        self.history = check_int("history", history, low=1)

    @without_autocast
    def decide(self, view: ServerView) -> Decision:
        """See `Rule.decide`."""
        if view.memory is None:
            return super().decide(view)
        self.check(view.gradients)
        norms = row_norms(view.gradients.detach()).masked_fill(view.rejected, torch.inf)
        limit = _median(self._remember(norms, view.memory))
        if not view.rejected.any():
            return Decision(_mean_of_cluster(view.gradients, limit))
        update = view.gradients.new_zeros(view.theta.shape)
        for _, runs, _, kept in self._by_accepted(view.gradients, ~view.rejected):
            update[runs] = _mean_of_cluster(kept, limit[runs])
        return Decision(update)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return _mean_of_cluster(gradients, row_norms(gradients).quantile(0.5, -1, keepdim=True))

    def _remember(self, norms: Tensor, memory: Memory) -> Tensor:
        """All norms so far, shape [E, m], with those of this round [E, n]; infinite where there is none."""
        names = ("clipped_clustering.norms", "clipped_clustering.rounds")
        kept = memory.read(names[0], self.history, norms.shape[1], dtype=torch.float64)
        rounds = memory.read(names[1], dtype=torch.int64)
        kept[torch.arange(len(kept), device=kept.device), rounds % self.history] = norms  # the oldest goes
        memory.write(names[0], kept)
        memory.write(names[1], rounds + 1)
        used = kept[:, : int(rounds.max()) + 1] if len(kept) else kept
        empty = torch.arange(used.shape[1], device=kept.device) > rounds[:, None]
        return used.masked_fill(empty[..., None], torch.inf).flatten(1)


def _median(values: Tensor) -> Tensor:
    """The median [E, 1] of the finite ones among values [E, m]."""
    counts = values.isfinite().sum(1, keepdim=True)
    middle = torch.cat([(counts - 1).clamp_min(0) // 2, counts // 2], 1).clamp_max(values.shape[1] - 1)
    return values.sort(1).values.gather(1, middle).mean(1, keepdim=True)


def _mean_of_cluster(gradients: Tensor, limit: Tensor) -> Tensor:
    """The mean [..., d] of the larger cluster of submissions [..., n, d], shortened to a limit [..., 1]."""
    num_workers = gradients.shape[-2]
    distances = cosine_distances(gradients).reshape(-1, num_workers, num_workers)
    labels = average_linkage(distances).reshape(gradients.shape[:-1])
    sizes = (labels[..., None] == labels[..., None, :]).sum(-1)
    kept = (sizes == sizes.amax(-1, keepdim=True)).double()
    factors = clip_factors(row_norms(gradients), limit) * kept / kept.sum(-1, keepdim=True)
    return combine_weights(factors, gradients)
