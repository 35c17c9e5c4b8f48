"""Pre-aggregators one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from byzgym.aggregation.drawing import Key, keys_of
from byzgym.aggregation.pre.base import Back, Mixed, PreAggregator
from byzgym.numerics.finite import finite_rows, is_finite
from byzgym.validation import check_tensor


@dataclass(frozen=True)
class Group:
    """Runs with equally many usable submissions, and what a chain makes of these.

    Attributes:
        runs: The numbers of the runs, shape [R].
        workers: The places [R, k] of the submissions that entered.
        mixed: The rows and the way back from their credits.
        places: Where the rows stand among those that all submissions would give, shape [R, m].
        num_byzantine: What a rule behind the chain is told.
    """

    runs: Tensor
    workers: Tensor
    mixed: Mixed
    places: Tensor
    num_byzantine: int


class Chain:
    """Pre-aggregators one after the other: each acts on what the one before has made.

    Args:
        members: In the order in which they act.
    """

    def __init__(self, members: Sequence[PreAggregator]) -> None:
        self.members = tuple(members)
        self.linear = all(member.linear for member in members)
        self.random = any(member.random for member in members)

    def follow(self, num_workers: int, num_byzantine: int) -> Iterator[tuple[PreAggregator, int, int]]:
        """Each member with the n and f that it meets."""
        for member in self.members:
            yield member, num_workers, num_byzantine
            num_bad = member.num_bad(num_workers, num_byzantine)
            num_workers, num_byzantine = member.num_rows(num_workers), num_bad

    def behind(self, num_workers: int, num_byzantine: int) -> tuple[int, int]:
        """The number of rows behind the chain, and how many of them can be bad."""
        for member, n, f in self.follow(num_workers, num_byzantine):
            num_workers, num_byzantine = member.num_rows(n), member.num_bad(n, f)
        return num_workers, num_byzantine

    def accepts(self, num_workers: int, num_byzantine: int) -> bool:
        """Whether every member accepts the n and f that it meets."""
        return all(f <= member.max_byzantine(n) for member, n, f in self.follow(num_workers, num_byzantine))

    def check(self, num_workers: int, num_byzantine: int) -> None:
        """Raise a ValueError unless every member accepts the n and f that it meets."""
        for member, n, f in self.follow(num_workers, num_byzantine):
            if f > member.max_byzantine(n):
                raise ValueError(
                    f"{type(member).__name__} needs {member.condition}, got n={n} and num_byzantine={f}"
                )

    def keys(self, gradients: Tensor, accepted: Tensor | None) -> list[Key]:
        """Keys for the runs of submissions [R, n, d], if anybody here draws."""
        return keys_of(gradients, accepted) if self.random else [()] * len(gradients)

    def groups(
        self,
        gradients: Tensor,
        accepted: Tensor | None,
        keys: Sequence[Key],
        num_byzantine: int,
        accepts: Callable[[int, int], bool] | None = None,
    ) -> Iterator[Group]:
        """Pre-aggregate the accepted submissions, runs with equally many of them together.

        Args:
            gradients: Shape [R, n, d].
            accepted: Bool, shape [R, n]; all where None.
            keys: Seed the draws of each run.
            num_byzantine: f. It is reduced by the number of rejected submissions, and to what is accepted for
                so few.
            accepts: Whether an n and an f are accepted; `Chain.accepts` where None.
        """
        accepts = accepts or self.accepts
        num_workers = gradients.shape[1]
        if accepted is None:
            workers = torch.arange(num_workers, device=gradients.device).expand(len(gradients), -1)
            runs = torch.arange(len(gradients), device=gradients.device)
            if len(gradients):
                yield self._group(gradients, runs, workers, num_workers, keys, num_byzantine)
            return
        num_rejected = (~accepted).sum(1)
        accepted = self.members[0].usable(accepted)
        counts = accepted.sum(1)
        first = accepted.sort(dim=1, descending=True, stable=True).indices
        for count, missing in sorted(set(zip(counts.tolist(), num_rejected.tolist(), strict=True))):
            if not count:
                continue
            runs = ((counts == count) & (num_rejected == missing)).nonzero()[:, 0]
            workers = first[runs, :count]
            kept = gradients[runs[:, None], workers]
            own = [keys[run] for run in runs.tolist()]
            f = max(0, num_byzantine - missing)
            while f and not accepts(count, f):
                f -= 1
            yield self._group(kept, runs, workers, num_workers, own, f)

    def _group(
        self,
        rows: Tensor,
        runs: Tensor,
        workers: Tensor,
        num_workers: int,
        keys: Sequence[Key],
        num_byzantine: int,
    ) -> Group:
        mixed, places, f = Mixed(rows), workers, num_byzantine
        backs: list[Back | None] = []
        for number, member in enumerate(self.members):
            count = mixed.rows.shape[1]
            own = [(*key, number) for key in keys]
            mixed = member.told(f)._apply(mixed.rows, own)
            backs.append(mixed.back)
            places = member.places(places, num_workers)
            f, num_workers = member.num_bad(count, f), member.num_rows(num_workers)
        return Group(runs, workers, Mixed(mixed.rows, _joined(backs)), places, f)

    def __call__(self, gradients: Tensor, num_byzantine: int) -> Tensor:
        """Pre-aggregate submissions [..., n, d] to [..., m, d]; see `PreAggregator.__call__`."""
        check_tensor("gradients", gradients, ..., "n", "d")
        num_workers, dimension = gradients.shape[-2:]
        self.check(num_workers, num_byzantine)
        flat = gradients.reshape(-1, num_workers, dimension)
        accepted = None if is_finite(flat) else finite_rows(flat)
        groups = list(self.groups(flat, accepted, self.keys(flat, accepted), num_byzantine))
        num_rows, _ = self.behind(num_workers, num_byzantine)
        if accepted is None and groups:
            out = groups[0].mixed.rows
        else:
            out = flat.new_full((len(flat), num_rows, dimension), torch.nan)
            for group in groups:
                out[group.runs[:, None], group.places] = group.mixed.rows
        return out.reshape(*gradients.shape[:-2], num_rows, dimension)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.members))


def _joined(backs: Sequence[Back | None]) -> Back | None:
    """The way back through all members; None if one has none."""
    if any(back is None for back in backs):
        return None

    def back(credits: Tensor) -> Tensor:
        credits = credits.double()
        for one in reversed(backs):
            assert one is not None
            credits = one(credits)
        return credits

    return back
