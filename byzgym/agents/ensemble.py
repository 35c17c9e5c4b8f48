"""An ensemble of policies, which the server judges by its own samples before it acts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from byzgym.agents.base import Agent
from byzgym.agents.registry import attach_inner, make_inner, registry
from byzgym.aggregation import Decision, ServerView, combine
from byzgym.aggregation.registry import split
from byzgym.aggregation.trial import loss_after
from byzgym.ambient import shielded
from byzgym.memory import Memory
from byzgym.numerics.finite import finite_loss
from byzgym.simulation import Simulation
from byzgym.validation import blamed, check_real

TOLERANCE = 1e-6
"""Rounding of losses, in units of the first one."""


@registry.built_in("ensemble")
class Ensemble(Agent):
    """Several policies under Hedge of Freund and Schapire 1997, "A Decision-Theoretic Generalization of
    On-Line Learning and an Application to Boosting" (https://doi.org/10.1006/jcss.1997.1504). The GAA paper
    names an N-version scheme as a remedy where quasi-validation (QV) samples have leaked.

    In every round each member decides, and the server evaluates its QV loss L after each member's step. The
    loss of member m is the change, in units of the QV loss L_0 with which the run began:
    ``l_m = (L(theta - lr * update_m) - L(theta)) / L_0``. Its weight is proportional to
    ``exp(-eta * (sum of clip(l_m) over the rounds before + l_m))``, where clip is to [-1, 1]. The present
    loss is not clipped: a member whose step makes the QV loss explode has weight 0 at once, and is forgiven
    later. The ensemble plays the weighted mean of the updates. If the loss of this mean is above the weighted
    mean of the losses, which a loss that is not convex allows, it plays the best member of the round.

    Regret: let c_t be the clipped loss of what the ensemble plays in round t, and c_t,m that of member m.
    After any number of rounds, for every one of M members and up to rounding,

        sum_t c_t <= sum_t c_t,m + ln(M) / eta.

    Nothing is assumed of the losses. No term grows with the number of rounds, as one does in the paper,
    because the ensemble knows the losses of a round before it acts. Where nothing is clipped, the sum on the
    left is (L(theta_T) - L_0) / L_0: the QV loss falls by as much as the steps of the best member would lower
    it, less L_0 ln(M) / eta. The bound is on steps from the ensemble's own parameters, and not on the run
    that a member would have made alone. It is on the QV loss, and not on test accuracy: ten samples can be
    overfitted. It leaves out the server's momentum. docs/gaa.md has accuracies.

    The losses are kept in ``view.memory``, in which every member has a section to itself.

    Args:
        members: The policies, as `agents.make_from` takes them: a list, or a text in which "+" joins them.
            The text "krum+gaa:window=3" will do for most. A list is for members with several parameters, with
            a "+" in a value, or with members of their own: ["krum", "gaa:window=3,hidden=[4]"].
            Pre-aggregators belong to the rule behind them: "nnm+krum+gaa" are two members.
        learning_rate: eta of Hedge, above 0. A larger one finds the best member sooner, and overfits the
            QV samples more.

    Attributes:
        weights: Of the members in the last decision, shape [E, M]; None before the first.

    Raises:
        ValueError: If there are no members, one is a reference, or a name is unknown. When deciding, if the
            view has no memory or no QV loss.
        TypeError: If ``members`` is neither text nor a list, or a member has no such parameter.

    Example:
        Three of ten workers submit reversed gradients, which fools Krum.

        >>> from byzgym import agents
        >>> from byzgym.simulation import Simulation
        >>> simulation = Simulation.make(seed=0, num_byzantine=3, attack="ipm")
        >>> ensemble = agents.build("ensemble:members=krum+gaa", simulation)
        >>> for _ in range(100):
        ...     simulation.apply(ensemble.decide(simulation.view))
        >>> bool(ensemble.weights[0, 1] > 0.9)
        True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"memory", "qv"})

    def __init__(self, members: str | Sequence[Any] = "krum+gaa", learning_rate: float = 10.0) -> None:
        given = split(members) if isinstance(members, str) else members
        if not isinstance(given, Sequence):
            raise TypeError(f"members must be names joined by '+' or a list of policies, got {members!r}")
        if not given:
            raise ValueError(f"members must not be empty, got {members!r}")
        self.members = [make_inner(f"members[{number}]", member) for number, member in enumerate(given)]
        self.learning_rate = check_real("learning_rate", learning_rate, above=0)
        self.weights: Tensor | None = None

    @property
    def linear(self) -> bool:  # type: ignore[override]
        """Whether decisions have credits: the weighted mean of the members', if all have them."""
        return all(member.linear for member in self.members)

    @property
    def inner(self) -> tuple[Agent, ...]:
        """See `Agent.inner`: the members."""
        return tuple(self.members)

    def reset(self, envs: Tensor | None = None) -> None:
        """See `Policy.reset`. The losses are in the server's memory, which resets with the episode."""
        for member in self.members:
            member.reset(envs)

    @shielded
    @torch.no_grad()
    def decide(self, view: ServerView) -> Decision:
        """See `Policy.decide`."""
        if view.memory is None:
            raise ValueError("an ensemble keeps a memory: build every ServerView with the same Memory")
        before = finite_loss(view.qv_value.double())  # [E]
        memory = view.memory.section("ensemble")
        decisions = []
        for number, member in enumerate(self.members):
            own = copy.copy(view)
            own.memory = memory.section(str(number))
            with blamed(f"members[{number}]"):
                decisions.append(member.decide(own))
        updates = torch.stack([decision.update.to(view.theta) for decision in decisions], 1)  # [E, M, d]
        unit = _first(memory, before).clamp(min=1e-12)
        changes = [(loss_after(view, update) - before) / unit for update in updates.unbind(1)]
        losses = torch.stack(changes, 1)  # [E, M]
        weights = torch.softmax(-self.learning_rate * (_past(memory, losses) + losses), 1)
        # A mean that is worse than its parts are on average has no bound. The best part has.
        mixed = (loss_after(view, combine(weights.to(updates), updates)) - before) / unit
        worse = mixed.clamp(-1, 1) > (weights * losses.clamp(-1, 1)).sum(1) + TOLERANCE
        best = F.one_hot(losses.argmin(1), len(self.members)).to(weights)
        self.weights = torch.where(worse[:, None], best, weights).to(updates)
        update, credits = combine(self.weights, updates), None
        if all(decision.credits is not None for decision in decisions):
            credits = combine(self.weights, torch.stack([_credits(d).to(updates) for d in decisions], 1))
        return Decision(update, credits)

    def _attach(self, simulation: Simulation) -> None:
        for number, member in enumerate(self.members):
            attach_inner(f"members[{number}]", member, simulation)
        super()._attach(simulation)

    def __repr__(self) -> str:
        return f"Ensemble({self.members})"


def _credits(decision: Decision) -> Tensor:
    assert decision.credits is not None
    return decision.credits


def _first(memory: Memory, loss: Tensor) -> Tensor:
    """The QV loss [E] with which each run began; remembers it."""
    first = memory.read("first", dtype=loss.dtype)
    first = torch.where(first == 0, loss, first)
    memory.write("first", first)
    return first


def _past(memory: Memory, losses: Tensor) -> Tensor:
    """The clipped losses [E, M] of the rounds before, added up; remembers those of this round."""
    past = memory.read("past", losses.shape[1], dtype=losses.dtype)
    memory.write("past", past + losses.clamp(-1, 1))
    return past
