"""Controls beside which learned agents are judged: uniform, random and fixed credits, and the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from byzgym.agents.base import Agent
from byzgym.agents.registry import registry
from byzgym.aggregation import Decision, Policy, ServerView
from byzgym.simulation import Simulation
from byzgym.validation import check_int, check_real


@registry.built_in("uniform")
class Uniform(Agent):
    """The same credit for every accepted submission: plain averaging.

    Example:
        >>> Uniform().credits(ServerView(torch.ones(1, 2, 3), torch.zeros(1, 3), 0.1, None))
        tensor([[0.5000, 0.5000]])
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def decide(self, view: ServerView) -> Decision:
        """See `Policy.decide`."""
        return Decision.from_credits(torch.full_like(view.previous_credits, 1 / view.num_workers), view)


@registry.built_in("random")
class Random(Agent):
    """Credits drawn in every round uniformly from the simplex.

    All environments of a batch draw from one generator, so what one of them gets depends on how many there
    are before it.

    Args:
        seed: Of the agent's own generator, at least 0.

    Example:
        >>> Random(seed=3).credits(ServerView(torch.ones(1, 2, 3), torch.zeros(1, 3), 0.1, None)).sum()
        tensor(1.)
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, seed: int = 0) -> None:
        self._seed = check_int("seed", seed, low=0)
        self._generator = torch.Generator().manual_seed(self._seed)

    def reset(self, envs: Tensor | None = None) -> None:
        """Begin the sequence of draws again. ``reset(envs)`` does not restart it."""
        if envs is None:
            self._generator.manual_seed(self._seed)

    def decide(self, view: ServerView) -> Decision:
        """See `Policy.decide`."""
        draws = torch.empty(view.previous_credits.shape, device="cpu").exponential_(generator=self._generator)
        return Decision.from_credits((draws / draws.sum(1, keepdim=True)).to(view.theta), view)


@registry.built_in("fixed")
class Fixed(Agent):
    """The same credits in every round. One Byzantine worker fools them, by proposition 1 of the GAA paper.

    Args:
        credits: One number per worker, not negative, with a positive sum; normalised. All on the first
            worker where None.

    Raises:
        ValueError: If a number is negative or not finite, or all are zero.

    Example:
        >>> Fixed([1, 3]).credits(ServerView(torch.ones(1, 2, 3), torch.zeros(1, 3), 0.1, None))
        tensor([[0.2500, 0.7500]])
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, credits: Sequence[float] | None = None) -> None:
        self._credits: np.ndarray | None = None
        if credits is not None:
            if not isinstance(credits, Sequence | np.ndarray):
                raise ValueError(f"credits must be a list of numbers, got {credits!r}")
            values = np.array([check_real("credits (each)", value, low=0) for value in credits])
            if not values.any():
                raise ValueError(f"credits must have a positive sum, got {list(credits)}")
            values /= values.max()  # the sum of large ones would overflow
            self._credits = values / values.sum()

    def decide(self, view: ServerView) -> Decision:
        """See `Policy.decide`.

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
        return Decision.from_credits(credits, view)


@registry.built_in("oracle")
class BenignOnlyOracle(Policy):
    """The average of the honest submissions: a reference, since no server knows who is honest.

    Under a fault in transmission (``gambler``, ``bit_flip`` with ``victims="all"``) no worker is Byzantine,
    and what the server receives is corrupted. The update is then the mean of what was sent, before the fault.
    It is no weighted sum of what was received, so there are no credits (a row of NaN): an environment takes
    it with ``action="update"``.

    Args:
        simulation: Where it looks up who is Byzantine, and what was sent. `Agent.bind` and `agents.build`
            fill it in.
    """

    reference: ClassVar[bool] = True

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def decide(self, view: ServerView) -> Decision:
        """See `Policy.decide`."""
        simulation = self._simulation
        servers = view.num_envs // simulation.num_envs  # of each environment
        byzantine = simulation.byzantine_rows.repeat_interleave(servers, 0)
        honest = (~byzantine & ~view.rejected).to(view.theta.dtype)
        decision = Decision.from_credits(honest / honest.sum(1, keepdim=True).clamp(min=1), view)
        faulty = simulation.faulty.repeat_interleave(servers)[:, None]
        if not faulty.any():
            return decision
        assert decision.credits is not None
        update = torch.where(faulty, simulation.sent_mean.to(decision.update), decision.update)
        return Decision(update, decision.credits.masked_fill(faulty, torch.nan))
