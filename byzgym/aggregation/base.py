"""The two kinds of rule: a `Weighting` gives credits, any other `Rule` only a vector."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.received import is_finite, received_rows
from byzgym.ambient import without_autocast
from byzgym.validation import check_int

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Of submissions."""


class NotLinearError(TypeError):
    """Raised when credits are asked of a rule that no credit vector can express."""


class Rule(ABC):
    """Maps submissions [..., n, d] to their aggregate [..., d].

    Rows with a non-finite entry count as not received: the rule acts on the others, with f reduced by the
    number of rejected rows and to what the rule accepts for so few; where it accepts none, the aggregate is
    their mean. Rules are right for entries from 1e-30 to 1e30 and never write into their input.

    Args:
        num_byzantine: The number f of Byzantine workers that the rule is told to expect. Rules that make no
            use of it take it all the same, so that one rule can stand in for another.

    Attributes:
        linear: Whether the aggregate is a convex combination of the submissions, so that `credits` exists.
        condition: What the rule demands of n and f, as its errors state it.
    """

    linear: ClassVar[bool] = False
    condition: ClassVar[str] = "n >= f + 1"

    def __init__(self, num_byzantine: int = 0) -> None:
        self.num_byzantine = check_int("num_byzantine", num_byzantine, low=0)

    @classmethod
    def max_byzantine(cls, num_workers: int) -> int:
        """The largest f that this rule accepts for n workers (-1 where it accepts none)."""
        return num_workers - 1

    @without_autocast
    def __call__(self, gradients: Tensor) -> Tensor:
        """Aggregate.

        Args:
            gradients: Submissions, shape [..., n, d].

        Returns:
            The aggregate, shape [..., d]; zero where no submission is finite.

        Raises:
            TypeError: If the submissions are not a tensor.
            ValueError: If the shape, the type or the rule's condition on n and f does not fit.
        """
        self.check(gradients)
        if not gradients.numel():  # no runs
            return gradients.new_zeros(gradients.shape[:-2] + gradients.shape[-1:])
        received = received_rows(gradients)
        if received is None:
            return self._aggregate(gradients)
        total = gradients.new_zeros(received.shape[:-1].numel(), gradients.shape[-1])
        for rule, runs, rows in self._by_received(received):
            total[runs] = rule._aggregate(gradients.reshape(-1, *gradients.shape[-2:])[runs[:, None], rows])
        return total.reshape(gradients.shape[:-2] + gradients.shape[-1:])

    def credits(self, gradients: Tensor) -> Tensor:
        """The credits [..., n] on the simplex with which the aggregate is a weighted sum.

        Raises:
            NotLinearError: If the rule is not linear.
        """
        raise NotLinearError(
            f"{type(self).__name__} is not a weighted sum of the submissions, so it has no credits; "
            "call the rule for its vector, or offer it in byzgym.wrappers.RuleSelection"
        )

    def check(self, gradients: Tensor) -> None:
        """Raise a ValueError unless shape, type and the rule's condition on n and f fit (or a TypeError)."""
        if not isinstance(gradients, Tensor):
            raise TypeError(f"gradients must be a tensor, got {type(gradients).__name__}")
        if gradients.dim() < 2 or 0 in gradients.shape[-2:] or gradients.dtype not in TYPES:
            raise ValueError(
                "gradients must be floating point (64, 32 or 16 bits) of shape [..., n, d] with n and d of "
                "at least 1, got "
                f"{gradients.dtype} of shape {tuple(gradients.shape)}"
            )
        num_workers = gradients.shape[-2]
        allowed = self.max_byzantine(num_workers)
        if self.num_byzantine > allowed:
            raise ValueError(
                f"{type(self).__name__} needs {self.condition}, got n={num_workers} and "
                f"num_byzantine={self.num_byzantine}"
                + (f"; the largest it accepts here is {allowed}" if allowed >= 0 else "")
            )

    @abstractmethod
    def _aggregate(self, gradients: Tensor) -> Tensor:
        """Aggregate finite submissions that `check` has accepted."""

    def _by_received(self, received: Tensor) -> Iterator[tuple[Rule, Tensor, Tensor]]:
        """Split the runs by the number of rows received, where that is not zero.

        Args:
            received: Shape [..., n], bool.

        Yields:
            The rule for so many rows, the indices [m] of the runs and the indices [m, k] of their rows.
        """
        received = received.reshape(-1, received.shape[-1])
        counts = received.sum(-1)
        first = received.sort(dim=-1, descending=True, stable=True).indices
        for count in sorted(set(counts.tolist()) - {0}):
            runs = (counts == count).nonzero()[:, 0]
            yield self._for_fewer(count, received.shape[-1] - count), runs, first[runs, :count]

    def _for_fewer(self, num_workers: int, num_rejected: int) -> Rule:
        """This rule for the workers left when some were rejected."""
        allowed = self.max_byzantine(num_workers)
        if allowed < 0:
            return _Uniform()
        rule = copy.copy(self)
        rule.num_byzantine = min(max(0, self.num_byzantine - num_rejected), allowed)
        return rule

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_byzantine={self.num_byzantine})"


class HonestMajority(Rule):
    """A rule that needs more honest workers than Byzantine ones."""

    condition: ClassVar[str] = "n >= 2f + 1"

    @classmethod
    def max_byzantine(cls, num_workers: int) -> int:
        """The largest f that this rule accepts for n workers (-1 where it accepts none)."""
        return (num_workers - 1) // 2


class Weighting(Rule):
    """A rule that is a convex combination of the submissions (a linear rule, GAA paper, Definition 2)."""

    linear: ClassVar[bool] = True

    @without_autocast
    def credits(self, gradients: Tensor) -> Tensor:
        """The credits on the simplex, shape [..., n].

        Args:
            gradients: Submissions, shape [..., n, d].

        Raises:
            ValueError: If the shape, the type or the rule's condition on n and f does not fit.
        """
        self.check(gradients)
        if not gradients.numel():  # no runs
            return gradients.new_zeros(gradients.shape[:-1])
        received = received_rows(gradients)
        if received is None:
            return self._credits(gradients)
        credits = gradients.new_zeros(received.shape).reshape(-1, received.shape[-1])
        for rule, runs, rows in self._by_received(received):
            assert isinstance(rule, Weighting)
            kept = gradients.reshape(-1, *gradients.shape[-2:])[runs[:, None], rows]
            credits[runs[:, None], rows] = rule._credits(kept).to(credits.dtype)
        credits = credits.reshape(received.shape)
        return torch.where(received.any(-1, keepdim=True), credits, 1 / received.shape[-1])

    @abstractmethod
    def _credits(self, gradients: Tensor) -> Tensor:
        """Credits for finite submissions that `check` has accepted."""

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return combine(self._credits(gradients).to(gradients.dtype), gradients)


class _Uniform(Weighting):
    """Equal credits for all: the mean."""

    def _credits(self, gradients: Tensor) -> Tensor:
        return gradients.new_full(gradients.shape[:-1], 1 / gradients.shape[-2])


def combine_weights(weights: Tensor, gradients: Tensor) -> Tensor:
    """`combine` for weights in double precision, which may be too small for the type of the gradients."""
    if ((weights > 0) & (weights < torch.finfo(gradients.dtype).tiny)).any():
        # The weights would vanish; what they leave of huge entries may not.
        return combine(weights, gradients.double()).to(gradients.dtype)
    return combine(weights.to(gradients.dtype), gradients)


@without_autocast
def combine(credits: Tensor, gradients: Tensor) -> Tensor:
    """The weighted sum of submissions; a row without credit cannot spoil it, whatever it holds.

    Args:
        credits: Shape [..., n].
        gradients: Shape [..., n, d].

    Returns:
        Shape [..., d].
    """
    total = (credits[..., None, :] @ gradients)[..., 0, :]
    if not is_finite(total):
        kept = torch.where((credits != 0)[..., None], gradients, 0)
        total = (credits[..., None, :] @ kept)[..., 0, :]
    return total
