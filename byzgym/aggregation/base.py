"""The kinds of rule: `Weighting` gives credits, any other `Rule` only a vector; `ServerRule` needs more."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.policy import Decision, Policy, combine, no_credits
from byzgym.aggregation.view import ServerView
from byzgym.ambient import without_autocast
from byzgym.numerics.finite import finite_rows, is_finite
from byzgym.registry import describe
from byzgym.validation import blamed, check_int, check_tensor

EQUIVARIANT = frozenset({"permutation", "translation", "scale"})
"""The ``claims`` of a rule that is at home in any coordinates."""
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Of submissions."""


class Rule(Policy):
    """Maps submissions [..., n, d] to their aggregate [..., d].

    A rule is called with plain tensors, ``rule(gradients)``, or as a policy, ``rule.decide(view)``. Rejected
    submissions (those with a NaN or infinite entry) count as not received: the rule acts on the others, with
    f reduced by the number of rejected ones and to what the rule accepts for so few. Where it accepts none,
    it takes their mean. Rules are right for entries from 1e-30 to 1e30 and never write into their input.

    A subclass defines `_aggregate`, which is given accepted submissions only.

    Args:
        num_byzantine: The number f of Byzantine workers that the rule is told to expect. Rules that make no
            use of it take it all the same, so that one rule can stand in for another.

    Attributes:
        linear: Whether the aggregate is a convex combination of the submissions, so that `credits` exists.
        condition: What the rule demands of n and f, as its errors state it.
        needs: What the rule needs beside the submissions: "memory" (``view.memory``), "qv" (the QV loss).
        uses_num_byzantine: Whether f changes the result.
        differentiable: Whether the aggregate can be differentiated with respect to the submissions.
        symmetric: Whether the order of the workers has no effect.
        random: Whether it draws random numbers, so that `decide` and a call may differ.
        exponential: Whether the cost grows exponentially with f.
        claims: What its paper or its definition promises of it with its defaults, in the words of
            `byzgym.properties.PROPERTIES`; of a rule that draws random numbers, for the same ones. ``byzgym
            properties`` tries to refute it.
        update_bound: How it bounds the norm of one submission, in words for threat-model records, with names
            of attributes in braces; None where nothing is declared.
        sybil_resistance: What it does against one attacker who appears as many workers, in such words; None
            where nothing is declared.
    """

    linear = False
    condition: ClassVar[str] = "n >= f + 1"
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_num_byzantine: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    symmetric: ClassVar[bool] = True
    random: ClassVar[bool] = False
    exponential: ClassVar[bool] = False
    claims: ClassVar[frozenset[str]] = frozenset()
    update_bound: ClassVar[str | None] = None
    sybil_resistance: ClassVar[str | None] = None

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
            The aggregate, shape [..., d]; zero where every submission is rejected.

        Raises:
            TypeError: If the submissions are no dense tensor.
            ValueError: If the shape, the type or the rule's condition on n and f does not fit.
        """
        self.check(gradients)
        return self._aggregate_accepted(gradients, _accepted(gradients))

    def credits(self, submissions: Tensor | ServerView) -> Tensor:
        """The credits [..., n] on the simplex with which the aggregate is a weighted sum.

        Args:
            submissions: A tensor [..., n, d] or a `ServerView`.

        Raises:
            NotLinearError: If the rule has no credits.
        """
        if isinstance(submissions, ServerView):
            return super().credits(submissions)
        raise no_credits(self)

    @without_autocast
    def decide(self, view: ServerView) -> Decision:
        """Decide on the update of this round.

        Raises:
            ValueError: If the rule's condition on n and f does not fit.
        """
        self.check(view.gradients)
        return Decision(self._aggregate_accepted(view.gradients, _accepted_in(view)))

    def check(self, gradients: Tensor) -> None:
        """Raise an error unless shape, type and the rule's condition on n and f fit."""
        check_tensor("gradients", gradients, ..., "n", "d")
        if 0 in gradients.shape[-2:] or gradients.dtype not in TYPES:
            raise ValueError(
                "gradients must be floating point (64, 32 or 16 bits) with n and d of at least 1, got "
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
        """Aggregate accepted submissions [..., n, d], all of them finite, to [..., d]."""

    def _aggregate_accepted(self, gradients: Tensor, accepted: Tensor | None) -> Tensor:
        """The aggregate [..., d] of the accepted submissions [..., n]; of all where ``accepted`` is None."""
        if not gradients.numel():  # no runs
            return gradients.new_zeros(gradients.shape[:-2] + gradients.shape[-1:])
        if accepted is None:
            return self._aggregate(gradients)
        total = gradients.new_zeros(accepted.shape[:-1].numel(), gradients.shape[-1])
        for rule, runs, _, kept in self._by_accepted(gradients, accepted):
            total[runs] = rule._aggregate(kept)
        return total.reshape(gradients.shape[:-2] + gradients.shape[-1:])

    def _by_accepted(
        self, gradients: Tensor, accepted: Tensor
    ) -> Iterator[tuple[Rule, Tensor, Tensor, Tensor]]:
        """Split the runs by their number k of accepted submissions [..., n], where that is not zero.

        Yields:
            The rule for k submissions, the indices [m] of the runs, and the indices [m, k] and the values
            [m, k, d] of their rows.
        """
        gradients = gradients.reshape(-1, *gradients.shape[-2:])
        accepted = accepted.reshape(-1, accepted.shape[-1])
        counts = accepted.sum(-1)
        first = accepted.sort(dim=-1, descending=True, stable=True).indices
        for count in sorted(set(counts.tolist()) - {0}):
            runs = (counts == count).nonzero()[:, 0]
            rows = first[runs, :count]
            rule = self._for_fewer(count, accepted.shape[-1] - count)
            numbers = runs[:, None] * accepted.shape[-1] + rows  # by run and row takes five times as long
            kept = gradients.flatten(0, 1).index_select(0, numbers.flatten())
            yield rule, runs, rows, kept.unflatten(0, rows.shape)

    def _for_fewer(self, num_workers: int, num_rejected: int) -> Rule:
        """This rule for the workers left when some were rejected."""
        from byzgym.aggregation.mean import Mean  # which imports this module

        allowed = self.max_byzantine(num_workers)
        if allowed < 0:
            return Mean()
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
    """A rule that is a convex combination of the submissions (a linear rule, in the GAA paper's words).

    A subclass defines `_credits`, which is given accepted submissions only.
    """

    linear = True

    @without_autocast
    def credits(self, submissions: Tensor | ServerView) -> Tensor:
        """The credits on the simplex, shape [..., n]; see `Rule.credits`.

        Rejected submissions get none. Where all are rejected, a tensor gets uniform credits.
        """
        if isinstance(submissions, ServerView):
            return super().credits(submissions)
        self.check(submissions)
        return self._credits_accepted(submissions, _accepted(submissions), 1 / submissions.shape[-2])

    @without_autocast
    def decide(self, view: ServerView) -> Decision:
        """See `Rule.decide`."""
        self.check(view.gradients)
        credits = self._credits_accepted(view.gradients, _accepted_in(view), 0.0)
        return Decision(combine(credits, view.gradients), credits.detach())

    @abstractmethod
    def _credits(self, gradients: Tensor) -> Tensor:
        """Credits [..., n] for accepted submissions [..., n, d], all of them finite."""

    def _credits_accepted(self, gradients: Tensor, accepted: Tensor | None, rest: float) -> Tensor:
        """The credits [..., n], with ``rest`` for each submission of a run in which none is accepted."""
        if not gradients.numel():  # no runs
            return gradients.new_zeros(gradients.shape[:-1])
        if accepted is None:
            return self._credits(gradients)
        credits = gradients.new_zeros(accepted.shape).reshape(-1, accepted.shape[-1])
        for rule, runs, rows, kept in self._by_accepted(gradients, accepted):
            assert isinstance(rule, Weighting)
            credits[runs[:, None], rows] = rule._credits(kept).to(credits.dtype)
        return torch.where(accepted.any(-1, keepdim=True), credits.reshape(accepted.shape), rest)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return combine(self._credits(gradients).to(gradients.dtype), gradients)


class ServerRule(Rule):
    """A rule that needs more than the submissions: a memory, or the server's QV loss.

    A subclass says in ``needs`` what it needs, sets ``linear`` if its decisions have credits, and defines
    `_decide`. What it keeps from round to round is in ``view.memory`` and nowhere else: it then resets with
    the episode and travels in snapshots. Names in the memory begin with the rule's own.

    Example:
        >>> class Momentum(ServerRule):
        ...     needs = frozenset({"memory"})
        ...     def _decide(self, view):
        ...         last = view.memory.read("momentum", view.theta.shape[1])  # [E, d], zero at first
        ...         update = 0.9 * last + view.gradients.mean(1)
        ...         view.memory.write("momentum", update)
        ...         return Decision(update)
    """

    def __call__(self, gradients: Tensor) -> Tensor:
        """Raise a TypeError: a tensor of submissions is not enough."""
        raise self._needs_view()

    def credits(self, submissions: Tensor | ServerView) -> Tensor:
        """The credits [E, n] of ``decide(view)``; see `Policy.credits`."""
        if isinstance(submissions, ServerView):
            return super().credits(submissions)
        raise self._needs_view()

    @without_autocast
    def decide(self, view: ServerView) -> Decision:
        """Decide on the update of this round.

        Raises:
            TypeError: If given a tensor.
            ValueError: If the condition on n and f does not fit, or the view lacks what the rule needs.
        """
        if not isinstance(view, ServerView):
            raise self._needs_view()
        self.check(view.gradients)
        if "memory" in self.needs and view.memory is None:
            raise ValueError(
                f"{self!r} keeps a memory: build every ServerView with the same memory=Memory(num_envs)"
            )
        if "qv" in self.needs and view.qv_loss is None:
            raise ValueError(f"{self!r} reads the QV loss: build the ServerView with a qv_loss")
        return self._decide(view)

    @abstractmethod
    def _decide(self, view: ServerView) -> Decision:
        """Decide on the update; rejected submissions are zero rows, marked in ``view.rejected``."""

    def _aggregate(self, gradients: Tensor) -> Tensor:
        raise self._needs_view()

    def _needs_view(self) -> TypeError:
        words = {"memory": "a memory", "qv": "the QV loss"}
        wanted = " and ".join(words[need] for need in sorted(self.needs))
        problem = f"{self!r} needs {wanted}, which a tensor lacks"
        return TypeError(f"{problem}: call decide(view) with a ServerView")


class CallableRule(Rule):
    """A plain callable ``gradients [..., n, d] -> vector [..., d]`` as a rule.

    Args:
        function: It is given accepted submissions only. Its attribute ``claims``, if it has one, is the
            rule's.
        name: How errors call it.
    """

    uses_num_byzantine: ClassVar[bool] = False

    def __init__(self, function: Callable[[Tensor], Tensor], name: str | None = None) -> None:
        super().__init__()
        self.function = function
        self.name = name or describe(function)
        vars(self)["claims"] = frozenset(getattr(function, "claims", ()))

    def _aggregate(self, gradients: Tensor) -> Tensor:
        with blamed(f"rule {self.name!r}"):
            result = self.function(gradients)
        check_tensor(f"the result of rule {self.name!r}", result, *gradients.shape[:-2], gradients.shape[-1])
        return result

    def __repr__(self) -> str:
        return self.name


def combine_weights(weights: Tensor, gradients: Tensor) -> Tensor:
    """`combine` for weights in double precision, which may be too small for the type of the gradients."""
    if ((weights > 0) & (weights < torch.finfo(gradients.dtype).tiny)).any():
        # The weights would vanish; what they leave of huge entries may not.
        return combine(weights, gradients.double()).to(gradients.dtype)
    return combine(weights.to(gradients.dtype), gradients)


def credit_lowest(scores: Tensor, keep: int) -> Tensor:
    """Equal credits for the ``keep`` lowest scores [..., n], of equal ones for the first; in their type."""
    kept = scores.sort(dim=-1, stable=True).indices[..., :keep]
    return torch.zeros_like(scores).scatter_(-1, kept, 1 / keep)


def clip_factors(norms: Tensor, limit: Tensor) -> Tensor:
    """Factors [..., n] from 0 to 1 that shorten rows of these norms to ``limit`` [..., 1]; differentiable."""
    return torch.where(norms > limit, limit / norms.masked_fill(norms == 0, 1), 1.0)


def _accepted(gradients: Tensor) -> Tensor | None:
    """Which submissions [..., n] are finite; None where all are."""
    if is_finite(gradients):
        return None
    finite = finite_rows(gradients)
    return None if finite.all() else finite


def _accepted_in(view: ServerView) -> Tensor | None:
    """Which submissions [E, n] of a view are accepted; None where all are."""
    return ~view.rejected if view.rejected.any() else None
