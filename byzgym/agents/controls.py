"""Controls beside which learned agents are judged: uniform, random and fixed credits, and the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from byzgym.agents.base import Agent
from byzgym.agents.registry import registry
from byzgym.aggregation import ServerView, accepted
from byzgym.simulation import Simulation
from byzgym.validation import check_int, check_real


@registry.built_in("uniform")
class Uniform(Agent):
    """The same credit for every accepted submission: plain averaging."""

    def credits(self, view: ServerView) -> Tensor:
        """See `Agent.credits`."""
        return accepted(torch.full_like(view.previous_credits, 1 / view.num_workers), view.rejected)


@registry.built_in("random")
class Random(Agent):
    """Credits drawn in every round uniformly from the simplex.

    All environments of a batch draw from one generator, so that what one of them gets depends on how many
    there are before it.

    Args:
        seed: Of the agent's own generator, at least 0.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = check_int("seed", seed, low=0)
        self._generator = torch.Generator().manual_seed(self._seed)
        self._drawn: tuple[ServerView, Tensor] | None = None

    def reset(self, envs: Tensor | None = None) -> None:
        """Begin the sequence of draws again; it goes on where environments are named, be it all of them."""
        if envs is None:
            self._generator.manual_seed(self._seed)
            self._drawn = None

    def credits(self, view: ServerView) -> Tensor:
        """See `Agent.credits`. One draw a round, however often it is asked."""
        if self._drawn is None or self._drawn[0] is not view:
            draws = torch.empty(view.previous_credits.shape).exponential_(generator=self._generator)
            credits = (draws / draws.sum(1, keepdim=True)).to(view.theta)
            self._drawn = view, accepted(credits, view.rejected)
        return self._drawn[1]


@registry.built_in("fixed")
class Fixed(Agent):
    """The same credits in every round (Proposition 1 of the GAA paper: one Byzantine worker fools them).

    Args:
        credits: One number per worker, not negative, with a positive sum; normalised. All on the first
            worker where None.

    Raises:
        ValueError: If a number is negative or not finite, or all are zero.
    """

    def __init__(self, credits: Sequence[float] | None = None) -> None:
        self._credits: np.ndarray | None = None
        if credits is not None:
            if not isinstance(credits, Sequence | np.ndarray):
                raise ValueError(f"credits must be a list of numbers, got {credits!r}")
            values = np.array([check_real("credits (each)", value, low=0) for value in credits])
            if values.sum() <= 0:
                raise ValueError(f"credits must have a positive sum, got {list(credits)}")
            self._credits = values / values.sum()

    def credits(self, view: ServerView) -> Tensor:
        """See `Agent.credits`.

        Raises:
            ValueError: If there are not as many credits as submissions.
        """
        credits = torch.zeros_like(view.previous_credits)
        if self._credits is None:
            credits[:, 0] = 1
        elif len(self._credits) != view.num_workers:
            raise ValueError(f"credits must have {view.num_workers} entries, got {len(self._credits)}")
        else:
            credits += torch.as_tensor(self._credits, dtype=credits.dtype, device=credits.device)
        return accepted(credits, view.rejected)


@registry.built_in("oracle")
class BenignOnlyOracle(Agent):
    """Averages the honest submissions: a reference, since no server knows who is honest.

    Args:
        simulation: Where it looks up who is Byzantine; `bind` takes that of the environment.
    """

    reference: ClassVar[bool] = True

    def __init__(self, simulation: Simulation | None = None) -> None:
        self._simulation = simulation

    def bind(self, env: Any) -> Self:
        """Attach to an environment and its simulation."""
        super().bind(env)
        self._simulation = self._env.simulation
        return self

    def credits(self, view: ServerView) -> Tensor:
        """See `Agent.credits`.

        Raises:
            RuntimeError: If the oracle was given neither a simulation nor an environment.
        """
        if self._simulation is None:
            raise RuntimeError("the oracle needs simulation=..., or an environment through bind(env)")
        honest = (~self._simulation.byzantine_rows & ~view.rejected).to(view.theta.dtype)
        return honest / honest.sum(1, keepdim=True).clamp(min=1)
