"""What a pre-aggregator is: it turns submissions into others, on which a rule then acts."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.drawing import Key, keys_of
from byzgym.ambient import without_autocast
from byzgym.numerics.finite import finite_rows, is_finite
from byzgym.registry import describe
from byzgym.validation import blamed, check_int, check_tensor

Back = Callable[[Tensor], Tensor]
"""Maps credits [R, m] for rows to credits [R, k], double, for the submissions of which they were made."""


@dataclass(frozen=True)
class Mixed:
    """What a pre-aggregator makes of the submissions of R runs.

    Attributes:
        rows: The m rows that a rule is given.
        back: The transpose of the mixing matrix, as a function of credits. None where the rows are no
            weighted sums.
    """

    rows: Tensor  # [R, m, d]
    back: Back | None = None


class PreAggregator(ABC):
    """Turns submissions [..., n, d] into others [..., m, d], on which a rule then acts.

    It stands in front of a rule, ``aggregation.make("nnm+krum", num_byzantine=2)``, or is called with plain
    tensors. It is given accepted submissions only, and must not write into them. A subclass defines `_rows`,
    or is a `Mixing` or a `Scaling`, which have credits.

    Args:
        num_byzantine: The number f of Byzantine workers to expect.

    Attributes:
        linear: Whether each row of the result is a weighted sum of the submissions, with weights that are not
            negative and sum to at most 1. With a rule that has credits, the composition then has credits.
        condition: What it demands of n and f, as errors state it.
        uses_num_byzantine: Whether f changes the result.
        random: Whether it draws random numbers.
        symmetric: Whether the order of the workers has no effect (but on the order of the result).
        differentiable: Whether the result can be differentiated with respect to the submissions.
        claims: What it leaves standing of the ``claims`` of a rule behind it.
        grants: What a rule behind it gains that claims "hull" or "breakdown", so that its aggregate is not
            much longer than what it is given.
        update_bound: How it bounds the norm of one submission; see `Rule`.
    """

    linear: ClassVar[bool] = False
    condition: ClassVar[str] = "n >= f + 1"
    uses_num_byzantine: ClassVar[bool] = False
    random: ClassVar[bool] = False
    symmetric: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    claims: ClassVar[frozenset[str]] = frozenset()
    grants: ClassVar[frozenset[str]] = frozenset()
    update_bound: ClassVar[str | None] = None

    def __init__(self, num_byzantine: int = 0) -> None:
        self.num_byzantine = check_int("num_byzantine", num_byzantine, low=0)

    def max_byzantine(self, num_workers: int) -> int:
        """The largest f that this accepts for n workers (-1 where it accepts none)."""
        return num_workers - 1

    def num_rows(self, num_workers: int) -> int:
        """The number m of rows that it makes of n submissions; it must not fall as n grows."""
        return num_workers

    def num_bad(self, num_workers: int, num_byzantine: int) -> int:
        """How many of the m rows can be bad where f of n submissions are: what the rule behind is told."""
        return min(num_byzantine, self.num_rows(num_workers))

    @without_autocast
    def __call__(self, gradients: Tensor) -> Tensor:
        """Pre-aggregate.

        Args:
            gradients: Submissions, shape [..., n, d].

        Returns:
            Shape [..., m, d]. Submissions with a NaN or infinite entry count as not received; rows that are
            missing for that reason are NaN, so that a rule rejects them.

        Raises:
            TypeError: If the submissions are no dense tensor.
            ValueError: If the shape or the condition on n and f does not fit.
        """
        from byzgym.aggregation.pre.chain import Chain  # which imports this module

        return Chain([self])(gradients, self.num_byzantine)

    def matrix(self, gradients: Tensor) -> Tensor:
        """The mixing matrix [..., m, n]: the result is its product with the submissions [..., n, d].

        Raises:
            TypeError: If there is none.
            ValueError: If a submission has a NaN or infinite entry.
        """
        check_tensor("gradients", gradients, ..., "n", "d")
        if not is_finite(gradients) and not finite_rows(gradients).all():
            raise ValueError("gradients must be finite, got NaN or infinite entries")
        flat = gradients.reshape(-1, *gradients.shape[-2:])
        # The keys are those of a chain of one.
        mixed = self._apply(flat, [(*key, 0) for key in keys_of(flat)] if self.random else [()] * len(flat))
        if mixed.back is None:
            raise TypeError(f"{self!r} has no mixing matrix")
        num_rows = mixed.rows.shape[1]
        unit = torch.eye(num_rows, dtype=torch.float64, device=flat.device)
        rows = [mixed.back(unit[row].expand(len(flat), -1)) for row in range(num_rows)]
        return torch.stack(rows, 1).reshape(*gradients.shape[:-2], num_rows, -1)

    def told(self, num_byzantine: int) -> PreAggregator:
        """This pre-aggregator with another f."""
        twin = copy.copy(self)
        twin.num_byzantine = num_byzantine
        return twin

    def places(self, workers: Tensor, num_workers: int) -> Tensor:
        """Where the rows [R, m] stand among those that n submissions would give.

        Args:
            workers: The places [R, k] of the accepted submissions among the n.
            num_workers: n.
        """
        if self.num_rows(num_workers) == num_workers:
            return workers  # row i is about worker i
        count = self.num_rows(workers.shape[1])
        return torch.arange(count, device=workers.device).expand(len(workers), -1)

    def usable(self, accepted: Tensor) -> Tensor:
        """Which submissions [R, n] can be used where only those in ``accepted`` [R, n] have arrived."""
        return accepted

    def _apply(self, gradients: Tensor, keys: Sequence[Key]) -> Mixed:
        """Pre-aggregate accepted submissions [R, k, d]; ``keys`` seed the draws, one for each run."""
        return Mixed(self._rows(gradients))

    @abstractmethod
    def _rows(self, gradients: Tensor) -> Tensor:
        """The rows [R, m, d] from accepted submissions [R, k, d], all of them finite."""

    def __repr__(self) -> str:
        known = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        if not self.uses_num_byzantine:
            known.pop("num_byzantine", None)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in known.items())})"


class Mixing(PreAggregator):
    """A pre-aggregator that gives weighted sums. A subclass defines `_matrix`."""

    linear: ClassVar[bool] = True

    @abstractmethod
    def _matrix(self, gradients: Tensor) -> Tensor:
        """Weights [R, m, k], not negative, with sums of at most 1, for submissions [R, k, d]."""

    def _apply(self, gradients: Tensor, keys: Sequence[Key]) -> Mixed:
        matrix = self._matrix(gradients)
        rows = matrix.to(gradients.dtype) @ gradients
        return Mixed(rows, lambda credits: (credits[:, None] @ matrix.double())[:, 0])

    def _rows(self, gradients: Tensor) -> Tensor:
        return self._apply(gradients, ()).rows


class Scaling(PreAggregator):
    """A pre-aggregator that multiplies every submission by a factor. A subclass defines `_factors`."""

    linear: ClassVar[bool] = True

    @abstractmethod
    def _factors(self, gradients: Tensor) -> Tensor:
        """Factors [R, k], not negative and at most 1, in double precision, for submissions [R, k, d]."""

    def _apply(self, gradients: Tensor, keys: Sequence[Key]) -> Mixed:
        factors = self._factors(gradients)
        return Mixed(scale_rows(factors, gradients), lambda credits: credits * factors)

    def _rows(self, gradients: Tensor) -> Tensor:
        return self._apply(gradients, ()).rows


class CallablePreAggregator(PreAggregator):
    """A plain callable ``gradients [..., n, d] -> rows [..., n, d]`` as a pre-aggregator.

    Args:
        function: It is given accepted submissions only.
        name: How errors call it.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], name: str | None = None) -> None:
        super().__init__()
        self.function = function
        self.name = name or describe(function)

    def _rows(self, gradients: Tensor) -> Tensor:
        with blamed(f"pre-aggregator {self.name!r}"):
            result = self.function(gradients)
        what = f"the result of pre-aggregator {self.name!r}"
        check_tensor(what, result, *gradients.shape)
        if result.dtype != gradients.dtype:
            raise TypeError(
                f"{what} must have the type of the submissions, {gradients.dtype}, got {result.dtype}"
            )
        return result

    def __repr__(self) -> str:
        return self.name


def scale_rows(factors: Tensor, gradients: Tensor) -> Tensor:
    """Rows [..., n, d] times factors [..., n] in double precision, which may not fit the type of the rows."""
    limits = torch.finfo(gradients.dtype)
    misfit = (factors > limits.max) | ((factors > 0) & (factors < limits.tiny))
    rows = factors.masked_fill(misfit, 0).to(gradients.dtype)[..., None] * gradients
    if misfit.any():
        exact = (factors[misfit][:, None] * gradients[misfit].double()).to(gradients.dtype)
        rows = rows.index_put((misfit,), exact)
    return rows
