"""Means of groups of submissions: random buckets, and the groups of secure aggregation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from byzgym.aggregation.drawing import Key
from byzgym.aggregation.pre.base import Mixed, PreAggregator
from byzgym.aggregation.pre.registry import registry
from byzgym.numerics.finite import is_finite
from byzgym.validation import check_int


class _Groups(PreAggregator):
    linear: ClassVar[bool] = True
    symmetric: ClassVar[bool] = False
    claims: ClassVar[frozenset[str]] = frozenset({"translation", "scale", "hull", "breakdown", "dimensional"})

    def __init__(self, num_byzantine: int = 0, size: int = 2) -> None:
        super().__init__(num_byzantine)
        self.size = check_int("size", size, low=1)

    def num_rows(self, num_workers: int) -> int:
        """The number of groups."""
        return math.ceil(num_workers / self.size)

    def _rows(self, gradients: Tensor) -> Tensor:
        """The means of groups of neighbours; the last one may be smaller."""
        means = self._means(gradients)
        # A sum of large numbers may overflow where the mean does not.
        return means if is_finite(means) else self.size * self._means(gradients / self.size)

    def _means(self, gradients: Tensor) -> Tensor:
        whole = gradients.shape[-2] // self.size * self.size
        means = gradients[..., :whole, :].unflatten(-2, (-1, self.size)).mean(-2)
        if whole == gradients.shape[-2]:
            return means
        return torch.cat([means, gradients[..., whole:, :].mean(-2, keepdim=True)], -2)

    def _shares(self, credits: Tensor, num_workers: int) -> Tensor:
        """What each of n neighbours gets of the credits [R, m] of their groups, shape [R, n]."""
        group = torch.arange(num_workers, device=credits.device) // self.size
        return (credits / group.bincount())[:, group]


@registry.built_in("bucketing")
class Bucketing(_Groups):
    """Bucketing of Karimireddy, He and Jaggi 2022, "Byzantine-Robust Learning on Heterogeneous Datasets via
    Bucketing" (https://arxiv.org/abs/2006.09365). It shuffles the submissions and averages them in buckets of
    s.

    The order is drawn anew in every round and for every run; the last bucket is smaller where s does not
    divide n. f Byzantine submissions spoil at most f of the ceil(n / s) buckets, so the rule behind is told f
    of ceil(n / s). A submission gets 1 / s of its bucket's credit.

    On a `ServerView` the order follows from ``seed``, the view's own seed and its round, so a second decision
    in a round draws the same. On plain tensors it follows from ``seed`` and the submissions: the same ones
    give the same buckets. A memory of single workers, as `trust` has, is of little use behind it.

    Condition: n >= f + 1. Cost: n d.

    Args:
        num_byzantine: Not used.
        size: s, the submissions in a bucket, at least 1. The paper proposes 2, and less than n / (2f).
        seed: Of the draws, at least 0.

    Example:
        >>> rows = torch.tensor([[1.0], [2.0], [3.0], [4.0], [100.0]])
        >>> Bucketing(size=5)(rows), Bucketing(size=2)(rows).shape
        (tensor([[22.]]), torch.Size([3, 1]))
    """

    random: ClassVar[bool] = True

    def __init__(self, num_byzantine: int = 0, size: int = 2, seed: int = 0) -> None:
        super().__init__(num_byzantine, size)
        self.seed = check_int("seed", seed, low=0)

    def _apply(self, gradients: Tensor, keys: Sequence[Key]) -> Mixed:
        num_workers = gradients.shape[1]
        orders = [np.random.default_rng((self.seed, *key)).permutation(num_workers) for key in keys]
        order = torch.from_numpy(np.stack(orders)).to(gradients.device)
        # A product with the matrix of shares reads the submissions once, and copies none.
        unit = torch.eye(self.num_rows(num_workers), dtype=gradients.dtype, device=gradients.device)
        shares = self._shares(unit, num_workers).expand(len(keys), -1, -1)
        places = order[:, None].expand_as(shares)
        rows = torch.zeros_like(shares).scatter(2, places, shares) @ gradients

        def back(credits: Tensor) -> Tensor:
            shares = self._shares(credits, num_workers)
            return torch.zeros_like(shares).scatter_(1, order, shares)

        return Mixed(rows, back)


@registry.built_in("secure_groups")
class SecureGroups(_Groups):
    """Secure aggregation in groups, as Velicheti, Xia and Koyejo 2021 put it in front of a rule, "Secure
    Byzantine-Robust Distributed Learning via Clustering" (https://arxiv.org/abs/2110.02940): the server sees
    only the means of groups of g workers.

    Worker i is in group i // g; the last group is smaller where g does not divide n. The server cannot tell
    the members of a group apart, so one submission that is not finite spoils its group. f Byzantine workers
    spoil at most f of the ceil(n / g) groups, so the rule behind is told f of ceil(n / g). Groups are the
    same in every round, as those of the simulation's ``secure_group_size`` are; in the paper they are drawn
    at random, which `bucketing` does.

    Condition: n >= f + 1. Cost: n d.

    Args:
        num_byzantine: Not used.
        size: g, the workers in a group, at least 1.

    Example:
        >>> rows = torch.tensor([[1.0], [3.0], [5.0], [torch.nan], [10.0]])
        >>> SecureGroups(size=2)(rows)[:, 0]
        tensor([ 2., nan, 10.])
    """

    def places(self, workers: Tensor, num_workers: int) -> Tensor:
        """See `PreAggregator.places`: a group keeps its place where another one is missing."""
        return workers[:, :: self.size] // self.size

    def usable(self, accepted: Tensor) -> Tensor:
        """See `PreAggregator.usable`: no member of a group in which one is missing."""
        group = torch.arange(accepted.shape[1], device=accepted.device) // self.size
        spoiled = torch.zeros(len(accepted), self.num_rows(accepted.shape[1]), device=accepted.device)
        return spoiled.index_add_(1, group, (~accepted).to(spoiled))[:, group] == 0

    def _apply(self, gradients: Tensor, keys: Sequence[Key]) -> Mixed:
        num_workers = gradients.shape[1]
        return Mixed(self._rows(gradients), lambda credits: self._shares(credits, num_workers))
