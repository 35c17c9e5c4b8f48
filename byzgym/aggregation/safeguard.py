"""SafeguardSGD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import HonestMajority, ServerRule
from byzgym.aggregation.policy import Decision
from byzgym.aggregation.registry import registry
from byzgym.aggregation.view import ServerView
from byzgym.numerics.distances import squared_distances
from byzgym.numerics.finite import finite_sum
from byzgym.validation import check_bool, check_int, check_real, shown


@registry.built_in("safeguard")
class Safeguard(HonestMajority, ServerRule):
    """SafeguardSGD of Allen-Zhu, Ebrahimianghazani, Li and Alistarh 2021, "Byzantine-Resilient Non-Convex
    Stochastic Gradient Descent" (https://arxiv.org/abs/2012.14368). It averages the workers whose submissions
    have, in sum over a window of rounds, stayed near to those of a median worker.

    All workers are good at first. A round adds x_i / (number of good workers) to the sums A_i and B_i of
    worker i, which restart at zero every ``windows[1]`` and ``windows[0]`` rounds. The median worker of each
    is the good one that has a majority of all n workers (itself included) within the smallest distance. A
    worker stays good if ``||A_i - A_med|| <= 2 T_1`` and ``||B_i - B_med|| <= 2 T_0``. The update is the mean
    of those that were good when the round began; Bant's code takes those that still are. If nobody would stay
    good, all that are good do.

    Left out is the Gaussian noise that the paper adds to the update for its proof about saddle points.

    Condition: n >= 2f + 1. Cost: n^2 d. It keeps 2 n d numbers.

    Args:
        num_byzantine: Checked, but not used otherwise.
        windows: The lengths of the short and the long window in rounds, each at least 1, the long one at
            least as long as the short one.
        thresholds: T_0 and T_1, each above 0. Where None, each is in every round the smallest with which a
            worker has a majority, the median worker's distance. (Bant's code takes this times a factor, and
            bounds it.)
        restore: Whether all workers are good again when a long window begins, for faults that pass.

    Raises:
        ValueError: If the windows or the thresholds are not two numbers in their range.

    Example:
        >>> from byzgym.memory import Memory
        >>> gradients, memory, rule = torch.tensor([[[1.0], [2.0], [3.0], [90.0]]]), Memory(1), Safeguard()
        >>> for _ in range(2):  # the fourth is found out, and left out from the next round on
        ...     rule.credits(ServerView(gradients, torch.zeros(1, 1), 0.1, None, memory=memory))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
        tensor([[0.3333, 0.3333, 0.3333, 0.0000]])
    """

    # No breakdown: in the first round it is the mean.
    # No permutation: two workers may be each other's farthest neighbours, and then the first is the median.
    claims: ClassVar[frozenset[str]] = frozenset({"translation", "scale", "hull"})
    symmetric: ClassVar[bool] = False
    linear = True
    needs: ClassVar[frozenset[str]] = frozenset({"memory"})
    uses_num_byzantine: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def __init__(
        self,
        num_byzantine: int = 0,
        windows: Sequence[int] = (10, 60),
        thresholds: Sequence[float] | None = None,
        restore: bool = False,
    ) -> None:
        super().__init__(num_byzantine)
        short, long = _pair("windows", windows)
        short = check_int("windows[0]", short, low=1)
        self.windows = short, check_int("windows[1]", long, low=short)
        self.thresholds: tuple[float, float] | None = None
        if thresholds is not None:
            first, second = _pair("thresholds", thresholds)
            first = check_real("thresholds[0]", first, above=0)
            self.thresholds = first, check_real("thresholds[1]", second, above=0)
        self.restore = check_bool("restore", restore)

    def _decide(self, view: ServerView) -> Decision:
        removed = view.recall("safeguard.removed", dtype=torch.bool)  # [E, n]
        if self.restore:
            removed = removed & ~_begun(view, "safeguard.restored", self.windows[1])
        good = ~removed
        leaving = removed
        for number, name in enumerate(("short", "long")):
            sums = self._add(view, f"safeguard.{name}", self.windows[number], good)
            threshold = None if self.thresholds is None else self.thresholds[number]
            leaving = leaving | _far(sums, good, threshold)
        leaving = torch.where(leaving.all(1, keepdim=True), removed, leaving)
        view.keep("safeguard.removed", leaving)
        kept = good & ~view.rejected
        return Decision.from_credits(kept.double() / kept.sum(1, keepdim=True).clamp(min=1), view)

    @staticmethod
    def _add(view: ServerView, name: str, window: int, good: Tensor) -> Tensor:
        """Add this round to the sums [E, n, d] of a window, and keep them."""
        # Half precision would soon lose what is added.
        dtype = torch.promote_types(view.gradients.dtype, torch.float32)
        sums = view.recall(name, view.gradients.shape[2], dtype=dtype)
        sums[_begun(view, f"{name}.window", window)] = 0
        sums = finite_sum(sums, view.gradients.detach() / good.sum(1)[:, None, None])
        view.keep(name, sums)
        return sums


def _begun(view: ServerView, name: str, window: int) -> Tensor:
    """Whether a window has begun since a worker took part for the last time, [E, n]."""
    now = (view.round // window)[:, None]
    last = view.recall(name, dtype=torch.int64)
    view.keep(name, now.expand_as(last))
    return last != now


def _far(sums: Tensor, good: Tensor, threshold: float | None) -> Tensor:
    """Which sums [E, n, d] are too far from that of the median worker, [E, n].

    Only good workers [E, n] can be it or count for its majority.
    """
    distances = squared_distances(sums).sqrt()
    nearest = distances.masked_fill(~good[:, None, :], torch.inf).sort(2).values
    majority = (good.sum(1) - 1).clamp(max=sums.shape[1] // 2)  # counted from zero: the worker itself
    within = nearest.gather(2, majority[:, None, None].expand(-1, sums.shape[1], 1))[..., 0]
    within, median = within.masked_fill(~good, torch.inf).min(1, keepdim=True)  # [E, 1]
    from_median = distances.gather(1, median[..., None].expand(-1, 1, sums.shape[1]))[:, 0]
    return from_median > 2 * (within if threshold is None else threshold)


def _pair(name: str, value: Sequence[Any]) -> tuple[Any, Any]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{name} must be two numbers, got {shown(value)}")
    return value[0], value[1]
