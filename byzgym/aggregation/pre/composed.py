"""A rule behind pre-aggregators, as one rule."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from byzgym import specs
from byzgym.aggregation.base import Rule, ServerRule, Weighting
from byzgym.aggregation.drawing import DrawingRule, Key, view_keys
from byzgym.aggregation.mean import Mean
from byzgym.aggregation.policy import Decision, combine, no_credits
from byzgym.aggregation.pre.base import PreAggregator
from byzgym.aggregation.pre.chain import Chain, Group
from byzgym.aggregation.pre.registry import PreSpec, make_from
from byzgym.aggregation.view import ServerView
from byzgym.ambient import without_autocast
from byzgym.numerics.finite import finite_rows, is_finite
from byzgym.validation import shown

MANY = 1000
"""Workers with whom it shows whether a pre-aggregator changes the number of rows."""


def compose(pre: Sequence[PreSpec], rule: Rule, num_byzantine: int | None = None) -> Rule:
    """Put pre-aggregators in front of a rule.

    The rule is told how many of the rows that reach it can be bad, and its condition holds for these. If the
    rule has credits and every pre-aggregator is a weighted sum, the result has credits for the submissions.

    Args:
        pre: Pre-aggregators in the order in which they act, as `pre.make_from` takes them.
        rule: What acts on their result.
        num_byzantine: f, of the submissions; what the rule was told where None.

    Example:
        >>> from byzgym.aggregation import Mean
        >>> rule = compose(["static_clipping:max_norm=1"], Mean())
        >>> rule(torch.tensor([[0.5], [100.0]])), rule.credits(torch.tensor([[0.5], [100.0]]))
        (tensor([0.7500]), tensor([0.5000, 0.0050]))
    """
    for one in pre:
        if not isinstance(one, str | Mapping):
            continue
        if "num_byzantine" in (specs.parse(one) if isinstance(one, str) else one):
            raise ValueError(f"pre-aggregators are told the rule's num_byzantine, got {shown(one)}")
    f = rule.num_byzantine if num_byzantine is None else num_byzantine
    members = [made if isinstance(made, PreAggregator) else make_from(made, f) for made in pre]
    if not members:
        return rule
    return (_OnView if isinstance(rule, ServerRule) else _OnSubmissions)(Chain(members), rule, f)


class _Composed(Rule):
    """What both kinds have in common."""

    def __init__(self, chain: Chain, rule: Rule, num_byzantine: int) -> None:
        super().__init__(num_byzantine)
        self.chain, self.rule = chain, rule
        members = chain.members
        described: dict[str, Any] = {
            "linear": chain.linear and rule.linear and isinstance(rule, Weighting | ServerRule),
            "condition": _condition(chain, rule),
            "needs": rule.needs,
            "uses_num_byzantine": rule.uses_num_byzantine or any(m.uses_num_byzantine for m in members),
            "differentiable": rule.differentiable and all(m.differentiable for m in members),
            "symmetric": rule.symmetric and all(m.symmetric for m in members),
            "exponential": rule.exponential,
            "random": rule.random or chain.random,
            "claims": _claims(chain, rule),
        }
        vars(self).update(described)

    def max_byzantine(self, num_workers: int) -> int:  # type: ignore[override]
        """The largest f that the pre-aggregators and the rule accept for n workers (-1 where none)."""
        return next((f for f in range(num_workers - 1, -1, -1) if self._accepts(num_workers, f)), -1)

    def check(self, gradients: Tensor) -> None:
        """Raise an error unless shape, type and the conditions on n and f fit."""
        Mean().check(gradients)
        num_workers, f = gradients.shape[-2], self.num_byzantine
        problem = None
        try:
            self.chain.check(num_workers, f)
            num_rows, num_bad = self.chain.behind(num_workers, f)
            _told(self.rule, num_bad).check(gradients.new_zeros(num_rows, 1))
        except ValueError as error:
            problem = str(error)
        if problem is not None:
            allowed = self.max_byzantine(num_workers)
            raise ValueError(
                f"{self!r} does not accept n={num_workers} and num_byzantine={f}: {problem}"
                + (f"; the largest f that it accepts here is {allowed}" if allowed >= 0 else "")
            )

    def _accepts(self, num_workers: int, num_byzantine: int) -> bool:
        if not self.chain.accepts(num_workers, num_byzantine):
            return False
        num_rows, num_bad = self.chain.behind(num_workers, num_byzantine)
        return num_bad <= self.rule.max_byzantine(num_rows)

    def _rule_for(self, num_rows: int, num_bad: int) -> Rule:
        """The rule behind the chain, for a run of which so many rows are left."""
        return Mean() if self.rule.max_byzantine(num_rows) < 0 else _told(self.rule, num_bad)

    def __repr__(self) -> str:
        return f"{self.chain!r} + {self.rule!r}"


class _OnSubmissions(_Composed):
    """A rule of submissions alone behind pre-aggregators."""

    @without_autocast
    def __call__(self, gradients: Tensor) -> Tensor:
        """Aggregate; see `Rule.__call__`."""
        self.check(gradients)
        flat = _flat(gradients)
        accepted = _accepted(flat)
        total = self._update(flat, accepted, self.chain.keys(flat, accepted))
        return total.reshape(gradients.shape[:-2] + gradients.shape[-1:])

    @without_autocast
    def credits(self, submissions: Tensor | ServerView) -> Tensor:
        """The credits [..., n] with which the aggregate is a weighted sum; see `Rule.credits`.

        Behind clipping they sum to less than 1, behind `normalize` perhaps to more.
        """
        if isinstance(submissions, ServerView) or not isinstance(self.rule, Weighting):
            return super().credits(submissions)
        self.check(submissions)
        flat = _flat(submissions)
        accepted = _accepted(flat)
        _, credits = self._solve(flat, accepted, self.chain.keys(flat, accepted))
        if credits is None:
            raise no_credits(self)
        if accepted is not None:
            credits = credits.masked_fill(~accepted.any(1, keepdim=True), 1 / flat.shape[1])
        return credits.to(submissions.dtype).reshape(submissions.shape[:-1])

    @without_autocast
    def decide(self, view: ServerView) -> Decision:
        """Decide on the update of this round; see `Rule.decide`."""
        self.check(view.gradients)
        accepted, keys = ~view.rejected if view.rejected.any() else None, view_keys(view)
        if not isinstance(self.rule, Weighting):
            return Decision(self._update(view.gradients, accepted, keys))
        update, credits = self._solve(view.gradients, accepted, keys)
        return Decision(update, None if credits is None else within_one(credits.detach().to(update)))

    def _update(self, gradients: Tensor, accepted: Tensor | None, keys: Sequence[Key]) -> Tensor:
        """The aggregate [R, d] of submissions [R, n, d]."""
        total = gradients.new_zeros(len(gradients), gradients.shape[2])
        for group, rule in self._groups(gradients, accepted, keys):
            total[group.runs] = rule._aggregate(group.mixed.rows)
        return total

    def _solve(
        self, gradients: Tensor, accepted: Tensor | None, keys: Sequence[Key]
    ) -> tuple[Tensor, Tensor | None]:
        """The aggregate [R, d], and the credits [R, n] in double precision if there are any."""
        total = gradients.new_zeros(len(gradients), gradients.shape[2])
        credits = gradients.new_zeros(gradients.shape[:2], dtype=torch.float64)
        known = True
        for group, rule in self._groups(gradients, accepted, keys):
            assert isinstance(rule, Weighting)
            own = rule._credits(group.mixed.rows).to(gradients.dtype)
            total[group.runs] = combine(own, group.mixed.rows)
            known = known and group.mixed.back is not None
            if group.mixed.back is not None:
                credits[group.runs[:, None], group.workers] = group.mixed.back(own.double())
        return total, credits if known else None

    def _groups(
        self, gradients: Tensor, accepted: Tensor | None, keys: Sequence[Key]
    ) -> Iterator[tuple[Group, Rule]]:
        for group in self.chain.groups(gradients, accepted, keys, self.num_byzantine, self._accepts):
            rule = self._rule_for(group.mixed.rows.shape[1], group.num_byzantine)
            if isinstance(rule, DrawingRule):
                rule = rule.with_keys([keys[run] for run in group.runs.tolist()])
            yield group, rule

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return self(gradients)


class _OnView(_Composed, ServerRule):
    """A rule with a memory or with the server's data behind pre-aggregators."""

    def _decide(self, view: ServerView) -> Decision:
        num_envs, num_workers, dimension = view.gradients.shape
        num_rows, num_bad = self.chain.behind(num_workers, self.num_byzantine)
        rows = view.gradients.new_zeros(num_envs, num_rows, dimension)
        rejected = torch.ones(num_envs, num_rows, dtype=torch.bool, device=rows.device)
        accepted, keys = ~view.rejected if view.rejected.any() else None, view_keys(view)
        groups = list(self.chain.groups(view.gradients, accepted, keys, self.num_byzantine))
        for group in groups:
            at = group.runs[:, None], group.places
            rows[at], rejected[at] = group.mixed.rows, False
        decision = _told(self.rule, num_bad).decide(self._behind(view, rows, rejected))
        if decision.credits is None or any(group.mixed.back is None for group in groups):
            return Decision(decision.update)
        credits = view.gradients.new_zeros(num_envs, num_workers, dtype=torch.float64)
        for group in groups:
            assert group.mixed.back is not None
            own = decision.credits[group.runs[:, None], group.places].double()
            credits[group.runs[:, None], group.workers] = group.mixed.back(own)
        return Decision(decision.update, within_one(credits.to(decision.credits)))

    def _behind(self, view: ServerView, rows: Tensor, rejected: Tensor) -> ServerView:
        """What the rule is shown: the rows that the chain has made, and a part of the memory to itself."""
        shown = copy.copy(view)
        shown.gradients, shown.rejected = rows, rejected
        if rows.shape[1] != view.num_workers:
            shown.previous_credits = rows.new_full(rows.shape[:2], 1 / rows.shape[1])
            shown.workers, shown.total_workers = None, rows.shape[1]  # a row is no single worker's
        if view.memory is not None:
            shown.memory = view.memory.section(repr(self.chain))
        return shown


def within_one(credits: Tensor) -> Tensor:
    """Credits [E, n] with NaN in place of rows whose sum is above 1, which no decision can have."""
    return credits.masked_fill(credits.sum(1, keepdim=True) > 1 + 1e-3, torch.nan)


def _condition(chain: Chain, rule: Rule) -> str:
    """What the composition demands, such as "n >= 2f + 3 behind Bucketing(size=2)"."""
    changed = [repr(member) for member in chain.members if member.num_rows(MANY) != MANY]
    behind = f" behind {' and '.join(changed)}" if changed else ""
    conditions = [*(member.condition for member in chain.members), rule.condition + behind]
    told = [condition for condition in dict.fromkeys(conditions) if condition != Rule.condition]
    return " and ".join(told) or Rule.condition


def _claims(chain: Chain, rule: Rule) -> frozenset[str]:
    """What is left of the rule's claims, and what it gains."""
    claims = rule.claims
    for member in reversed(chain.members):
        gained = member.grants if claims & {"hull", "breakdown"} else frozenset()
        claims = claims & member.claims | gained
    return claims


def _told(rule: Rule, num_byzantine: int) -> Rule:
    if rule.num_byzantine == num_byzantine:
        return rule
    twin = copy.copy(rule)
    twin.num_byzantine = num_byzantine
    return twin


def _flat(gradients: Tensor) -> Tensor:
    return gradients.reshape(-1, *gradients.shape[-2:])


def _accepted(gradients: Tensor) -> Tensor | None:
    """Which submissions [R, n] are finite; None where all are."""
    if is_finite(gradients):
        return None
    finite = finite_rows(gradients)
    return None if finite.all() else finite
