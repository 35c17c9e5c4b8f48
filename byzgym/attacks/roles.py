"""Role functions: which of the workers are Byzantine in a round.

A role function is any callable ``(assigned, current, context) -> byzantine``. The three sets are bool, shape
[E, n]: ``assigned`` was drawn when the episode began, ``current`` is the set of the last round (``assigned``
in round 0), and the answer is the set of this round. A role function keeps values in ``context.memory`` only.
It draws random numbers from ``context`` only, and none for environments whose roles stay in this round:
an environment must not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from byzgym.attacks.base import AttackContext
from byzgym.registry import Registry, is_callable
from byzgym.validation import check_bool, check_int, check_real, shown

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


@registry.built_in("rotating")
class Rotating:
    """The attack goes round: every ``period`` rounds the Byzantine workers hand it on to the next ones.

    The assigned set moves by ``step`` workers, from the last worker on to the first, so as many are Byzantine
    as were assigned. Changes of identity are the subject of Dorfman et al. 2024, "Dynamic Byzantine-robust
    learning" (https://arxiv.org/abs/2402.02951).

    Args:
        period: Rounds, at least 1.
        step: By how many workers the set moves, any integer.

    Example:
        >>> assigned = torch.tensor([[True, True, False, False]])
        >>> context = AttackContext.standalone(torch.zeros(1, 4, 5))
        >>> context.round += 7
        >>> Rotating(period=5)(assigned, assigned, context)
        tensor([[False,  True,  True, False]])
    """

    def __init__(self, period: int = 5, step: int = 1) -> None:
        self.period = check_int("period", period, low=1)
        self.step = check_int("step", step)

    def __call__(self, assigned: Tensor, current: Tensor, context: AttackContext) -> Tensor:
        """Return ``assigned``, moved as often as periods have passed."""
        num_workers = assigned.shape[1]
        moved = context.round // self.period % num_workers * (self.step % num_workers)  # [E]
        worker = torch.arange(num_workers, device=assigned.device)
        return assigned.gather(1, (worker - moved[:, None]) % num_workers)


@registry.built_in("intermittent")
class Intermittent:
    """The assigned workers attack for ``on`` rounds, behave honestly for ``off`` rounds, and so on.

    A rule that judges workers by what they sent before may have forgotten it when they attack again.

    Args:
        on: Rounds, at least 1.
        off: Rounds, at least 0.
        start: The first round in which they attack, at least 0.

    Example:
        >>> assigned = torch.tensor([[True, False]] * 6)
        >>> context = AttackContext.standalone(torch.zeros(6, 2, 3))
        >>> context.round = torch.arange(6)
        >>> Intermittent(on=2, off=1, start=1)(assigned, assigned, context)[:, 0]
        tensor([False,  True,  True, False,  True,  True])
    """

    def __init__(self, on: int = 10, off: int = 10, start: int = 0) -> None:
        self.on = check_int("on", on, low=1)
        self.off = check_int("off", off, low=0)
        self.start = check_int("start", start, low=0)

    def __call__(self, assigned: Tensor, current: Tensor, context: AttackContext) -> Tensor:
        """Return ``assigned`` while they attack, nobody otherwise."""
        since = context.round - self.start
        attacking = (since >= 0) & (since % (self.on + self.off) < self.on)
        return assigned & attacking[:, None]


@registry.built_in("schedule")
class Schedule:
    """A schedule of yours: from given rounds on, given workers are Byzantine, whoever was assigned.

    Before the first of these rounds nobody is. Rules are still told the f of the environment, not what the
    schedule makes of it.

    Args:
        changes: Pairs ``[round, workers]`` in ascending order of the rounds: from this round on, these
            workers (their numbers, from 0) and no others are Byzantine.

    Example:
        >>> roles = Schedule([[0, [0, 1]], [50, []], [60, [2]]])
        >>> assigned = torch.zeros(3, 4, dtype=torch.bool)
        >>> context = AttackContext.standalone(torch.zeros(3, 4, 5))
        >>> context.round = torch.tensor([49, 50, 1000])
        >>> roles(assigned, assigned, context)
        tensor([[ True,  True, False, False],
                [False, False, False, False],
                [False, False,  True, False]])
    """

    def __init__(self, changes: Sequence[Sequence[Any]]) -> None:
        self.changes = _checked_changes(changes)

    def __call__(self, assigned: Tensor, current: Tensor, context: AttackContext) -> Tensor:
        """Return who is Byzantine according to the schedule.

        Raises:
            ValueError: If it names a worker that does not exist.
        """
        num_workers = assigned.shape[1]
        highest = max((worker for _, workers in self.changes for worker in workers), default=0)
        if highest >= num_workers:
            raise ValueError(f"roles: changes must name workers from 0 to {num_workers - 1}, got {highest}")
        sets = torch.zeros(len(self.changes) + 1, num_workers, dtype=torch.bool, device=assigned.device)
        for number, (_, workers) in enumerate(self.changes, start=1):
            sets[number, workers] = True
        rounds = torch.tensor([round for round, _ in self.changes], device=assigned.device)
        return sets[(context.round[:, None] >= rounds).sum(1)]


def _checked_changes(changes: Any) -> list[tuple[int, list[int]]]:
    checked: list[tuple[int, list[int]]] = []
    if isinstance(changes, str) or not isinstance(changes, Sequence) or not changes:
        raise ValueError(f"changes must be pairs [round, workers], at least one, got {shown(changes)}")
    for pair in changes:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise ValueError(f"changes must be pairs [round, workers], got {shown(pair)}")
        round, workers = pair
        if isinstance(workers, str) or not isinstance(workers, Sequence):
            raise ValueError(f"changes must name workers in a list of numbers, got {shown(workers)}")
        low = checked[-1][0] + 1 if checked else 0
        if check_int("changes (each round)", round, low=0) < low:
            raise ValueError(f"changes must name rounds in ascending order, got {round} after {low - 1}")
        checked.append((round, [check_int("changes (each worker)", worker, low=0) for worker in workers]))
    return checked


def _scaled(uniform: Tensor, count: int) -> Tensor:
    """Numbers uniform in [0, 1) as integers uniform in 0 .. count - 1."""
    return (uniform * count).long()
