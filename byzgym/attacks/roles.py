"""Role functions: which of the workers behave Byzantine in a round (GAA: Pan et al. 2020, section 3.1).

A role function is any callable ``(assigned, current, context) -> byzantine``: ``assigned`` [E, n] is the set
drawn when the episode began, ``current`` [E, n] the set of the last round (``assigned`` in round 0), and the
answer [E, n] is the set of this round. It keeps no state and draws randomness only from ``context``, for
those environments alone whose roles change in this round: an environment's roles do not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from byzgym.attacks.base import AttackContext
from byzgym.registry import Registry, is_callable
from byzgym.validation import check_bool, check_int, check_real

registry: Registry[Callable[[Tensor, Tensor, AttackContext], Tensor]] = Registry("role function", is_callable, "a callable")
names = registry.names
register = registry.register
make = registry.make
make_from = registry.make_from


@registry.built_in("static")
class Static:
    """The workers drawn at the start of the episode stay Byzantine throughout."""

    def __call__(self, assigned: Tensor, current: Tensor, context: AttackContext) -> Tensor:
        """Return the assigned set."""
        return assigned


@registry.built_in("randomized")
class Randomized:
    """At a period every worker's role reverses with a probability, each for itself.

    GAA's randomized attack (Pan et al. 2020): the role of all but one "randomly reverses at a period".
    Reversals happen in the rounds that are positive multiples of the period; between them roles stay.

    Args:
        period: Rounds, at least 1.
        probability: From 0 to 1.
        fixed_honest: True: one worker, the first honest one of ``assigned``, never reverses (worker 0 if none
            is honest; it is honest from the first reversal on). A rule can then learn that worker's identity.
            False: all reverse, and where nobody would be left honest, one worker drawn uniformly is.
    """

    def __init__(self, period: int = 50, probability: float = 0.5, fixed_honest: bool = True) -> None:
        self.period = check_int("period", period, low=1)
        self.probability = check_real("probability", probability, low=0, high=1)
        self.fixed_honest = check_bool("fixed_honest", fixed_honest)

    def __call__(self, assigned: Tensor, current: Tensor, context: AttackContext) -> Tensor:
        """Return the roles after this round's reversal, or the current ones."""
        due = (context.round > 0) & (context.round % self.period == 0)
        if not due.any():
            return current
        num_workers = current.shape[1]
        draws = context.uniform(num_workers + 1, where=due)
        reversed_ = current ^ (draws[:, :-1] < self.probability)
        if self.fixed_honest:
            spared, needed = _first(~assigned), due
        else:
            spared, needed = _whole(draws[:, -1], num_workers), reversed_.all(-1)
        reversed_ = reversed_ & ~(needed[:, None] & _one_hot(spared, num_workers))
        return torch.where(due[:, None], reversed_, current)


@registry.built_in("pretense")
class Pretense:
    """The Byzantine workers behave honestly until a round, and are Byzantine from then on (Pan et al. 2020).

    Args:
        until: The first round in which they attack, at least 0.
    """

    def __init__(self, until: int = 50) -> None:
        self.until = check_int("until", until, low=0)

    def __call__(self, assigned: Tensor, current: Tensor, context: AttackContext) -> Tensor:
        """Return nobody before that round, then the assigned set."""
        return assigned & (context.round >= self.until)[:, None]


@registry.built_in("fluctuating")
class Fluctuating:
    """At a period, round 0 included, the number of Byzantine workers and their identities are drawn anew.

    The number is uniform in ``low .. high`` and the members are a uniform subset of that size, whatever was
    assigned: in GAA's claim the Byzantine ratio "fluctuates unboundedly" (Pan et al. 2020).

    Args:
        period: Rounds, at least 1.
        low: At least 0.
        high: At least ``low``, at most the number of workers; None for all workers but one.
    """

    def __init__(self, period: int = 1, low: int = 0, high: int | None = None) -> None:
        self.period = check_int("period", period, low=1)
        self.low = check_int("low", low, low=0)
        self.high = None if high is None else check_int("high (unless None)", high, low=self.low)

    def __call__(self, assigned: Tensor, current: Tensor, context: AttackContext) -> Tensor:
        """Return newly drawn roles, or the current ones.

        Raises:
            ValueError: If ``high`` is more than the number of workers, or ``low`` more than ``high``.
        """
        num_workers = current.shape[1]
        high = self._high(num_workers)
        due = context.round % self.period == 0
        if not due.any():
            return current
        draws = context.uniform(num_workers + 1, where=due)
        number = self.low + _whole(draws[:, -1], high - self.low + 1)
        permutation = draws[:, :-1].argsort(-1)
        return torch.where(due[:, None], permutation < number[:, None], current)

    def _high(self, num_workers: int) -> int:
        if self.high is None:
            if self.low > num_workers - 1:
                raise ValueError(
                    f"roles: low must be at most {num_workers - 1}, all but one worker, got {self.low}"
                )
            return num_workers - 1
        if self.high > num_workers:
            raise ValueError(
                f"roles: high must be at most {num_workers}, the number of workers, got {self.high}"
            )
        return self.high


def _first(mask: Tensor) -> Tensor:
    """Index [E] of the first True of each row of [E, n]; 0 where there is none."""
    return mask.to(torch.uint8).argmax(-1)


def _whole(uniform: Tensor, count: int) -> Tensor:
    """Numbers uniform in [0, 1) as whole numbers uniform in 0 .. count - 1."""
    return (uniform * count).long()


def _one_hot(index: Tensor, width: int) -> Tensor:
    """Bool [E, width], True at the index [E] only."""
    return torch.arange(width, device=index.device) == index[:, None]
