"""Rules that draw random numbers, and what seeds the draws of a run."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from byzgym.aggregation.base import Rule
from byzgym.aggregation.policy import Decision
from byzgym.aggregation.view import ServerView
from byzgym.validation import check_int

Key = tuple[int, ...]
"""Numbers of at least 0 that seed the random draws for one run."""
BINS = 1024
"""Columns from which `keys_of` takes a key."""


class DrawingRule(Rule):
    """A rule that draws random numbers, in every run and round other ones.

    On a `ServerView` the draws follow from the rule's ``seed``, the view's own seeds and its rounds, so a
    second decision in a round draws the same. On plain tensors they follow from ``seed`` alone and are the
    same in every call. A job must give its views the round, or a memory, which counts it; else its draws are
    the same in every round, too.

    A subclass calls `_generators` once and draws from what it returns. It names this class before the others
    from which it inherits.

    Args:
        num_byzantine: The number f of Byzantine workers to expect.
        seed: Of the draws, at least 0.
    """

    random: ClassVar[bool] = True
    _keys: Sequence[Key] | None = None

    def __init__(self, num_byzantine: int = 0, seed: int = 0) -> None:
        super().__init__(num_byzantine)
        self.seed = check_int("seed", seed, low=0)

    def decide(self, view: ServerView) -> Decision:
        """See `Rule.decide`."""
        return super(DrawingRule, self.with_keys(view_keys(view))).decide(view)

    def with_keys(self, keys: Sequence[Key]) -> DrawingRule:
        """This rule for runs of which each has a key."""
        rule = copy.copy(self)
        rule._keys = keys
        return rule

    def _by_accepted(
        self, gradients: Tensor, accepted: Tensor
    ) -> Iterator[tuple[Rule, Tensor, Tensor, Tensor]]:
        for rule, runs, rows, kept in super()._by_accepted(gradients, accepted):
            if self._keys is not None and isinstance(rule, DrawingRule):
                rule = rule.with_keys([self._keys[run] for run in runs.tolist()])
            yield rule, runs, rows, kept

    def _generators(self, gradients: Tensor) -> list[np.random.Generator]:
        """A generator for each of R runs, of which these are the accepted submissions [..., n, d]."""
        keys = self._keys or [(0, 0)] * gradients.shape[:-2].numel()  # as in a view's first round
        return [np.random.default_rng((self.seed, *key)) for key in keys]

    def _draw_columns(self, gradients: Tensor, count: int, times: int = 1) -> Tensor:
        """``times`` draws of ``count`` different columns for each run: int64 [times, ..., count]."""
        dimension = gradients.shape[-1]
        drawn = [
            [generator.choice(dimension, count, replace=False, shuffle=False) for _ in range(times)]
            for generator in self._generators(gradients)
        ]
        columns = torch.from_numpy(np.array(drawn)).to(gradients.device).movedim(1, 0)
        return columns.reshape(times, *gradients.shape[:-2], count)


def take_columns(rows: Tensor, columns: Tensor) -> Tensor:
    """Of each run's rows [..., n, d] the columns [..., b]: [..., n, b].

    >>> take_columns(torch.tensor([[[1, 2, 3], [4, 5, 6]]]), torch.tensor([[2, 0]]))
    tensor([[[3, 1],
             [6, 4]]])
    """
    flat, chosen = rows.reshape(-1, *rows.shape[-2:]), columns.reshape(-1, columns.shape[-1])
    if len(flat) == 1:  # twice as fast as to gather
        taken = flat.index_select(-1, chosen[0])
    else:
        taken = flat.gather(-1, chosen[:, None].expand(-1, flat.shape[1], -1))
    return taken.reshape(*rows.shape[:-1], columns.shape[-1])


def view_keys(view: ServerView) -> list[Key]:
    """Keys for the draws of this round, one for each run."""
    return list(zip(view.seed.tolist(), view.round.tolist(), strict=True))


def keys_of(gradients: Tensor, accepted: Tensor | None = None) -> list[Key]:
    """A key for each of R runs, from what was submitted [R, n, d]: equal submissions give equal draws.

    Who does not know the seed of a rule or pre-aggregator cannot foresee its draws. Only rows that are
    accepted [R, n] count, all where None.
    """
    step = max(1, gradients.shape[-1] // BINS)
    some = gradients.detach()[..., ::step]
    kind = {8: torch.int64, 4: torch.int32, 2: torch.int16}[some.element_size()]
    rows = some.contiguous().view(kind).sum(-1, dtype=torch.int64)  # exact, in whatever order it is added
    rows = rows if accepted is None else rows.masked_fill(~accepted, 0)
    return [(key & (2**63 - 1),) for key in rows.sum(1).tolist()]  # in whatever order the workers are
