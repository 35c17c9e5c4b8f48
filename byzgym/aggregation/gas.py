"""Gradient splitting."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from byzgym.aggregation.base import EQUIVARIANT, HonestMajority, Rule, Weighting, credit_lowest
from byzgym.aggregation.drawing import DrawingRule, take_columns
from byzgym.aggregation.registry import RuleSpec, make_for, registry
from byzgym.numerics.distances import row_norms
from byzgym.validation import check_int

BLOCK = 1 << 22  # values that are split at once


@registry.built_in("gas")
class GAS(DrawingRule, HonestMajority, Weighting):
    """Gradient splitting (GAS) of Liu, Chen, Lyu, Wu, Wu and Chen 2023, "Byzantine-Robust Learning on
    Heterogeneous Data via Gradient Splitting" (https://arxiv.org/abs/2302.06079). It lets another rule
    aggregate random parts of the submissions, and averages the submissions that are nearest to the results.

    The coordinates are dealt at random into parts of equal length, the last of which may be shorter. A
    submission's score is the sum, over the parts, of its distance from what the other rule makes of the part.
    The n - f submissions with the lowest scores are averaged, of equal ones the first. As in the authors'
    code, the other rule is told f, or the largest f that it accepts; where it accepts none for so few
    submissions, their mean takes its place. Their Krum is Multi-Krum, the default here. Their released
    configuration has a Bulyan whose last step averages the distances from the median in place of the values;
    CRYPTO-KU's library has it, too.

    Condition: n >= 2f + 1. Cost: n d, and what the other rule costs.

    Args:
        num_byzantine: The number f of Byzantine workers to expect.
        rule: The other rule: a name, "name:key=value", a mapping with a "name", a rule or a callable. It must
            need nothing but submissions.
        num_parts: The number of parts, at least 1; d where there are not so many coordinates.
        seed: Of the draws, at least 0; see `DrawingRule`.

    Raises:
        ValueError: If the other rule is unknown, or needs more than submissions.

    Example:
        >>> rows = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [9.0, 2.0]])  # medians: 1.5, 1.5
        >>> GAS(num_byzantine=1, rule="median")(rows)  # scores: 3, 1, 1, 8
        tensor([1., 1.])
    """

    claims: ClassVar[frozenset[str]] = EQUIVARIANT | {"hull", "breakdown"}

    def __init__(
        self,
        num_byzantine: int = 0,
        rule: RuleSpec = "multi_krum",
        num_parts: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__(num_byzantine, seed)
        self.rule = rule
        self.num_parts = check_int("num_parts", num_parts, low=1)
        # With so many workers every rule accepts f.
        self._other = make_for(rule, 4 * self.num_byzantine + 3, self.num_byzantine)
        self._told = self.num_byzantine
        if self._other.needs:
            raise ValueError(
                f"rule must need submissions alone, got {rule!r}, which needs {sorted(self._other.needs)}"
            )

    def _credits(self, gradients: Tensor) -> Tensor:
        num_workers, dimension = gradients.shape[-2:]
        if not self.num_byzantine:
            return gradients.new_full(gradients.shape[:-1], 1 / num_workers)
        rule = self._other._for_fewer(num_workers, num_rejected=self._told - self.num_byzantine)
        rows = gradients.detach()
        orders = [generator.permutation(dimension) for generator in self._generators(rows)]
        order = torch.from_numpy(np.stack(orders)).to(rows.device).reshape(*rows.shape[:-2], dimension)
        length = math.ceil(dimension / self.num_parts)
        at_once = max(1, BLOCK // (rows[..., 0].numel() * length))
        scores = torch.zeros(rows.shape[:-1], dtype=torch.float64, device=rows.device)
        for columns in order.split(length * at_once, -1):
            block = take_columns(rows, columns)
            whole = columns.shape[-1] // length * length
            parts = block[..., :whole].unflatten(-1, (-1, length)).movedim(-2, -3)  # [..., p, n, length]
            scores += _distances(rule, parts).sum(-2)
            if whole < columns.shape[-1]:
                scores += _distances(rule, block[..., whole:])
        return credit_lowest(scores, num_workers - self.num_byzantine).to(gradients.dtype)


def _distances(rule: Rule, rows: Tensor) -> Tensor:
    """The distances [..., n] of rows [..., n, s] from what the rule makes of them, in double precision."""
    center = rule(rows)[..., None, :]
    if rows.element_size() < 4:
        rows, center = rows.float(), center.float()
    return row_norms(rows - center)
