"""FoundationFL."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.base import EQUIVARIANT, HonestMajority
from byzgym.aggregation.registry import RuleSpec, make_for, registry
from byzgym.numerics.distances import distances_to, take_row
from byzgym.numerics.moments import at_least_single
from byzgym.validation import check_int


@registry.built_in("foundation")
class Foundation(HonestMajority):
    """FoundationFL of Fang et al. 2025, "Do We Really Need to Design New Byzantine-robust Aggregation Rules?"
    (https://arxiv.org/abs/2501.17381). It adds copies of one submission, the one farthest from the extremes,
    and applies another rule.

    With max and min taken in each coordinate over the submissions, the score of x_i is
    ``min(||x_i - max||, ||x_i - min||)``. Copies of the submission with the largest score (of equal ones, the
    first) join the n submissions, and the rule is applied to all. If the rule depends on f, it is told the
    same f.

    A large submission can itself have the largest score: alone among small ones it sets both extremes and is
    about as far from them as the others are. Then the copies are copies of it, and the rule may fail.

    Condition: n >= 2f + 1. Cost: n d, and the rule's for n + copies submissions. Not differentiable.

    Args:
        num_byzantine: The number f of Byzantine workers to expect.
        rule: A rule of submissions alone, as a name, "name:key=value" or a mapping. The paper has the trimmed
            mean and the median.
        copies: How many copies, at least 0. Where None, n // 2, as in CRYPTO-KU's library.

    Raises:
        ValueError: If the rule is unknown, or needs a memory or the QV loss.

    Example:
        >>> Foundation(rule="median")(torch.tensor([[0.0], [1.0], [3.0], [4.0], [9.0]]))  # of 0 1 3 4 4 4 9
        tensor([4.])
    """

    claims: ClassVar[frozenset[str]] = EQUIVARIANT
    differentiable: ClassVar[bool] = False

    def __init__(
        self, num_byzantine: int = 0, rule: RuleSpec = "trimmed_mean", copies: int | None = None
    ) -> None:
        super().__init__(num_byzantine)
        self.rule = rule
        self.copies = None if copies is None else check_int("copies", copies, low=0)
        if make_for(rule, 99, 0).needs:
            raise ValueError(f"rule must be one of submissions alone, got {rule!r}")

    def _aggregate(self, gradients: Tensor) -> Tensor:
        rows = gradients.detach()
        num_workers = rows.shape[-2]
        copies = num_workers // 2 if self.copies is None else self.copies
        chosen = take_row(rows, _scores(at_least_single(rows)).argmax(-1))[..., None, :]
        rule = make_for(self.rule, num_workers + copies, self.num_byzantine)
        return rule(torch.cat([rows, chosen.expand(*rows.shape[:-2], copies, -1)], -2))


def _scores(rows: Tensor) -> Tensor:
    """The smaller distance [..., n] of the rows [..., n, d] from the largest and the smallest coordinates."""
    return torch.minimum(distances_to(rows, rows.amax(-2)), distances_to(rows, rows.amin(-2)))
