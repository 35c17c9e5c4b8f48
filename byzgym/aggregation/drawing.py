"""Rules that draw random numbers."""

from __future__ import annotations

import copy

import numpy as np

from byzgym.aggregation.base import Rule
from byzgym.aggregation.policy import Decision
from byzgym.aggregation.view import ServerView
from byzgym.validation import check_int


class DrawingRule(Rule):
    """A rule that draws random numbers, from its seed and the number of the round and from nothing else.

    All runs get the same draws in the same round, so a run does not depend on what is beside it. A call with
    a tensor, which has no round, draws as in round 0. A job outside the simulation gives its views the round,
    or a memory, which counts them: the draws would otherwise be the same in every round.

    A subclass calls `_generator` once and draws from what it returns. It names this class before the others
    from which it inherits.

    Args:
        num_byzantine: The number f of Byzantine workers to expect.
        seed: Of the draws, at least 0.
    """

    def __init__(self, num_byzantine: int = 0, seed: int = 0) -> None:
        super().__init__(num_byzantine)
        self.seed = check_int("seed", seed, low=0)
        self._round = 0

    def decide(self, view: ServerView) -> Decision:
        """See `Rule.decide`."""
        rounds = view.round.unique().tolist()
        if len(rounds) < 2:
            return self._decide_in(*rounds, view=view)
        update = view.gradients.new_zeros(view.theta.shape)
        credits = view.gradients.new_zeros(view.rejected.shape) if self.linear else None
        for number in rounds:  # environments whose episodes began at different times
            runs = (view.round == number).nonzero()[:, 0]
            decision = self._decide_in(number, view=view.of(runs))
            update[runs] = decision.update
            if credits is not None and decision.credits is not None:
                credits[runs] = decision.credits
        return Decision(update, credits)

    def _decide_in(self, number: int = 0, *, view: ServerView) -> Decision:
        rule = copy.copy(self)
        rule._round = number
        return super(DrawingRule, rule).decide(view)

    def _generator(self) -> np.random.Generator:
        """A generator for the draws of this round."""
        return np.random.default_rng([self.seed, self._round])
