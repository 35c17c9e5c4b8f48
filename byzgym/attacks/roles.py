"""Role functions: which of the workers are Byzantine in a round.

A role function is any callable ``(assigned, current, context) -> byzantine``. The three sets are bool, shape
[E, n]: ``assigned`` was drawn when the episode began, ``current`` is the set of the last round (``assigned``
in round 0), and the answer is the set of this round. A role function keeps values in ``context.memory`` only.
It draws random numbers from ``context`` only, and none for environments whose roles stay in this round:
an environment must not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from byzgym.attacks.base import AttackContext
from byzgym.registry import Registry, is_callable
from byzgym.validation import check_bool, check_int, check_real

registry: Registry[Callable[[Tensor, Tensor, AttackContext], Tensor]] = Registry(
    "role function", is_callable, "a callable"
)
names = registry.names
register = registry.register
make = registry.make
make_from = registry.make_from


@registry.built_in("static")
class Static:
    """The workers drawn at the start of the episode are Byzantine in every round.

    Example:
        >>> assigned = torch.tensor([[True, False]])
        >>> context = AttackContext.standalone(torch.zeros(1, 2, 3))
        >>> Static()(assigned, assigned, context)
        tensor([[ True, False]])
    """

    def __call__(self, assigned: Tensor, current: Tensor, context: AttackContext) -> Tensor:
        """Return ``assigned``."""
        return assigned


@registry.built_in("randomized")
class Randomized:
    """Randomized attack of Pan et al. 2020, "Justinian's GAAvernor"
    (https://www.usenix.org/conference/usenixsecurity20/presentation/pan). Each worker's role
    reverses with a probability, in every round that is a positive multiple of ``period``.

    Workers reverse independently of each other. In the paper the role of all but one worker "randomly
    reverses at a period".

    Args:
        period: Rounds, at least 1.
        probability: From 0 to 1.
        fixed_honest: True: the first honest worker of ``assigned`` never reverses, and a rule can learn who
            it is. (If all are Byzantine, worker 0 becomes honest at the first reversal.) False: all may
            reverse; if nobody would be left honest, one worker drawn uniformly is.

    Example:
        >>> assigned = torch.tensor([[True, False, False]])
        >>> context = AttackContext.standalone(torch.zeros(1, 3, 5))
        >>> context.round += 50
        >>> Randomized(period=50, probability=1.0)(assigned, assigned, context)
        tensor([[False, False,  True]])
    """

    def __init__(self, period: int = 50, probability: float = 0.5, fixed_honest: bool = True) -> None:
        self.period = check_int("period", period, low=1)
        self.probability = check_real("probability", probability, low=0, high=1)
        self.fixed_honest = check_bool("fixed_honest", fixed_honest)

    def __call__(self, assigned: Tensor, current: Tensor, context: AttackContext) -> Tensor:
        """Return the reversed roles where a reversal is due, the current ones elsewhere."""
        due = (context.round > 0) & (context.round % self.period == 0)
        if not due.any():
            return current
        num_workers = current.shape[1]
        draws = context.uniform(num_workers + 1, where=due)
        byzantine = current ^ (draws[:, :-1] < self.probability)
        if self.fixed_honest:
            honest = (~assigned).to(torch.uint8).argmax(-1)  # [E], the first one; 0 where there is none
            needed = due
        else:
            honest = _scaled(draws[:, -1], num_workers)
            needed = byzantine.all(-1)
        chosen = torch.arange(num_workers, device=honest.device) == honest[:, None]  # [E, n]
        byzantine = byzantine & ~(needed[:, None] & chosen)
        return torch.where(due[:, None], byzantine, current)


@registry.built_in("redrawn")
class Redrawn:
    """Every ``period`` rounds other workers are Byzantine, as many as were assigned.

    No worker stays honest for ever, so credits cannot be learned by a worker's number.

    Args:
        period: Rounds, at least 1.

    Example:
        >>> assigned = torch.tensor([[True, True, False]])
        >>> context = AttackContext.standalone(torch.zeros(1, 3, 5))
        >>> context.round += 5
        >>> Redrawn(period=5)(assigned, assigned, context).sum()
        tensor(2)
    """

    def __init__(self, period: int = 5) -> None:
        self.period = check_int("period", period, low=1)

    def __call__(self, assigned: Tensor, current: Tensor, context: AttackContext) -> Tensor:
        """Return newly drawn roles where they are due, the current ones elsewhere."""
        due = (context.round > 0) & (context.round % self.period == 0)
        if not due.any():
            return current
        order = context.uniform(current.shape[1], where=due).argsort(-1)
        return torch.where(due[:, None], assigned.gather(1, order), current)


@registry.built_in("pretense")
class Pretense:
    """Pretense attack of Pan et al. 2020, "Justinian's GAAvernor"
    (https://www.usenix.org/conference/usenixsecurity20/presentation/pan). The assigned workers behave
    honestly at first, and are Byzantine from round ``until`` on.

    Args:
        until: The first round in which they attack, at least 0.

    Example:
        >>> assigned = torch.tensor([[True, False]])
        >>> context = AttackContext.standalone(torch.zeros(1, 2, 3))
        >>> Pretense(until=50)(assigned, assigned, context)
        tensor([[False, False]])
    """

    def __init__(self, until: int = 50) -> None:
        self.until = check_int("until", until, low=0)

    def __call__(self, assigned: Tensor, current: Tensor, context: AttackContext) -> Tensor:
        """Return nobody before that round, ``assigned`` from then on."""
        return assigned & (context.round >= self.until)[:, None]


@registry.built_in("fluctuating")
class Fluctuating:
    """Fluctuating ratio of Pan et al. 2020, "Justinian's GAAvernor"
    (https://www.usenix.org/conference/usenixsecurity20/presentation/pan). A number of
    Byzantine workers from ``low`` to ``high`` is drawn anew every ``period`` rounds, and so are the workers.

    The draws begin in round 0 and are uniform, whoever was assigned. The paper claims that GAA copes with a
    Byzantine ratio that "fluctuates unboundedly".

    Args:
        period: Rounds, at least 1.
        low: At least 0.
        high: At least ``low``, at most the number of workers; None for all workers but one.

    Example:
        >>> assigned = torch.tensor([[True, False, False]])
        >>> context = AttackContext.standalone(torch.zeros(1, 3, 5))
        >>> Fluctuating(low=2, high=2)(assigned, assigned, context).sum()
        tensor(2)
    """

    def __init__(self, period: int = 1, low: int = 0, high: int | None = None) -> None:
        self.period = check_int("period", period, low=1)
        self.low = check_int("low", low, low=0)
        self.high = None if high is None else check_int("high (unless None)", high, low=self.low)

    def __call__(self, assigned: Tensor, current: Tensor, context: AttackContext) -> Tensor:
        """Return newly drawn roles where they are due, the current ones elsewhere.

        Raises:
            ValueError: If ``low`` or ``high`` is too large for the number of workers.
        """
        num_workers = current.shape[1]
        high = num_workers - 1 if self.high is None else self.high
        if self.low > high:
            raise ValueError(f"roles: low must be at most {high}, all workers but one, got {self.low}")
        if high > num_workers:
            raise ValueError(f"roles: high must be at most {num_workers}, the number of workers, got {high}")
        due = context.round % self.period == 0
        if not due.any():
            return current
        draws = context.uniform(num_workers + 1, where=due)
        number = self.low + _scaled(draws[:, -1], high - self.low + 1)
        ranks = draws[:, :-1].argsort(-1)
        return torch.where(due[:, None], ranks < number[:, None], current)


def _scaled(uniform: Tensor, count: int) -> Tensor:
    """Numbers uniform in [0, 1) as integers uniform in 0 .. count - 1."""
    return (uniform * count).long()
