"""Rules, and objects from outside, as agents."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from byzgym.agents.base import Agent
from byzgym.aggregation import Decision, Policy, ServerView
from byzgym.envs.actions import shown_rule
from byzgym.simulation import Simulation
from byzgym.validation import blamed, check_tensor

Build = Callable[[int, int | None, Simulation | None], Any]
"""Makes a policy for n submissions, f Byzantine workers and a simulation, as far as these are known."""


class PolicyAgent(Agent):
    """A policy that is no agent by itself: a rule, or an object from outside.

    The object has one of ``decide(view)``, ``credits(view)`` [E, n] and ``aggregate(view)`` [E, d], and may
    have ``reset(envs=None)`` or ``reset()``. Where its factory wants n, f or the simulation, it is built when
    `bind` or the first view tells these.

    Args:
        name: How errors call it.
        build: Makes the policy.
        linear: Whether its decisions have credits.
        reference: Whether it sees more than a server would.

    Attributes:
        policy: What decides; None until it has been built.
    """

    def __init__(self, name: str, build: Build, linear: bool = True, reference: bool = False) -> None:
        self.name = name
        self.policy: Any = None
        self.linear, self.reference = linear, reference  # type: ignore[misc]
        self._build = build
        self._built_for: int | None = None  # n, where a view told it

    @classmethod
    def of(cls, policy: Any, name: str) -> PolicyAgent:
        """A policy that has been built."""
        agent = cls(name, partial(_built, policy))
        agent._set_policy(policy)
        return agent

    @property
    def inner(self) -> tuple[Agent, ...]:
        """See `Agent.inner`."""
        return (self.policy,) if isinstance(self.policy, Agent) else ()

    def decide(self, view: ServerView) -> Decision:
        """See `Policy.decide`. Without an environment, a rule is told the largest f that it accepts."""
        if self.policy is None or self._built_for not in (None, view.num_workers):
            self._set_policy(self._build(view.num_workers, None, None))
            self._built_for = view.num_workers
        policy = self.policy
        with blamed(f"policy {self.name!r}"):
            if callable(getattr(policy, "decide", None)):
                decision = policy.decide(view)
                if not isinstance(decision, Decision):
                    raise TypeError(f"decide must return a Decision, got {type(decision).__name__}")
            elif self.linear:
                decision = Decision.from_credits(policy.credits(view), view)
            else:
                decision = Decision(policy.aggregate(view))
            check_tensor("update", decision.update, *view.theta.shape)
            return decision

    def reset(self, envs: Tensor | None = None) -> None:
        """See `Policy.reset`. An object whose ``reset`` has no parameter ``envs`` is reset as a whole."""
        reset = getattr(self.policy, "reset", None)
        if reset is not None:
            with blamed(f"policy {self.name!r}"):
                reset(**({"envs": envs} if "envs" in inspect.signature(reset).parameters else {}))

    def _attach(self, simulation: Simulation) -> None:
        self._set_policy(self._build(simulation.num_rows, simulation.most_byzantine, simulation))
        self._built_for = None
        simulation.rule = shown_rule(self.policy)

    def _set_policy(self, policy: Any) -> None:
        self.policy = policy
        if isinstance(policy, Policy):
            self.linear = policy.linear
        elif not callable(getattr(policy, "decide", None)):
            self.linear = callable(getattr(policy, "credits", None))
        self.reference = bool(getattr(policy, "reference", False))  # type: ignore[misc]

    def __repr__(self) -> str:
        return self.name if self.policy is None else repr(self.policy)


def _built(policy: Any, *known: Any) -> Any:
    """A `Build` of what has been built. Builds are no closures, so that agents can be pickled."""
    return policy
