"""What an action can be. Each kind turns actions into a `Decision`, and a policy's decision into actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from byzgym.aggregation import (
    Decision,
    Mean,
    NotLinearError,
    Rule,
    RuleSpec,
    ServerRule,
    ServerView,
    make_for,
)
from byzgym.aggregation.registry import described
from byzgym.simulation import Simulation
from byzgym.validation import blamed, check_choice

LARGEST = float(np.finfo(np.float32).max)


class Actions(ABC):
    """The actions of one kind, which the environment's argument ``action`` names."""

    space: spaces.Space[Any]  # of one environment

    @abstractmethod
    def decode(self, actions: np.ndarray, view: ServerView) -> Decision:
        """The decision that actions [E, ...] ask for; a ValueError if a shape or a number is not allowed."""

    @abstractmethod
    def encode(self, decision: Decision, view: ServerView) -> np.ndarray:
        """The actions [E, ...] that ask for a policy's decision; an error if no action of this kind does."""

    def check_policy(self, policy: Any) -> None:  # noqa: B027
        """Raise an error if a policy cannot act here, before it is asked to."""

    def ignored(self, num_envs: int) -> np.ndarray:
        """Valid actions [E, ...] for environments that will not play them."""
        return np.zeros((num_envs, *(self.space.shape or ())), self.space.dtype)

    def _numbers(self, actions: np.ndarray, view: ServerView) -> np.ndarray:
        """Actions [E, ...] as real numbers, in the right shape."""
        if actions.dtype.kind != "f":
            try:
                actions = actions.astype(np.float64, casting="safe")
            except (TypeError, ValueError):
                raise ValueError(f"action must be an array of numbers, got {actions!r}") from None
        if actions.shape[:1] != (view.num_envs,):
            raise ValueError(
                f"action must have one row for each of {view.num_envs} environments, got {actions.shape}"
            )
        if actions.shape[1:] != self.space.shape:
            raise ValueError(
                f"action must have shape {self.space.shape} per environment, got {actions.shape[1:]}"
            )
        return actions


class CreditActions(Actions):
    """A credit per received row: ``Box(0, 1, (n,))``.

    An action is divided by its sum. One whose sum is 1 (to 1e-6) passes unchanged, and all zero means
    uniform. The credit of rejected rows goes to the accepted ones.
    """

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.space = spaces.Box(0.0, 1.0, (num_rows,), np.float32)

    def decode(self, actions: np.ndarray, view: ServerView) -> Decision:
        """See `Actions.decode`; entries must be finite and not negative."""
        return Decision.from_credits(self._normalised(actions, view), view)

    def encode(self, decision: Decision, view: ServerView) -> np.ndarray:
        """See `Actions.encode`. Credits that sum to less than 1 are scaled up; a null slot keeps them."""
        credits = _credits_of(decision)
        total = credits.sum(1, keepdim=True)
        credits = torch.where(total > 0, credits / total.clamp(min=1e-30), credits)
        return credits.cpu().numpy().astype(np.float32)

    def check_policy(self, policy: Any) -> None:
        """See `Actions.check_policy`."""
        if not policy.linear:
            raise NotLinearError(
                f"{policy!r} gives no credits; make the environment with action='update' for it"
            )

    def _normalised(self, actions: np.ndarray, view: ServerView) -> Tensor:
        actions = self._numbers(actions, view)
        # NumPy, because for so few numbers each operation of torch costs several times as much.
        if not (actions.min() >= -1e-6 and actions.max() < np.inf):  # false for NaN, too
            bad = int(np.flatnonzero(~((actions >= -1e-6) & (actions < np.inf)).all(1))[0])
            raise ValueError(f"action must be finite and not negative, got {actions[bad].tolist()}")
        values = np.maximum(actions, 0, dtype=np.float64)
        if values.max() > 1e300:  # the sum might overflow
            values /= values.max(1, keepdims=True)
        total = values.sum(1, keepdims=True)
        if not total.all():
            values, total = np.where(total > 0, values, 1 / values.shape[1]), np.where(total > 0, total, 1)
        values /= np.where(np.abs(total - 1) <= 1e-6, 1, total)
        return torch.from_numpy(values.astype(np.float32)).to(view.theta.device)


class NullSlotActions(CreditActions):
    """Credits, and one slot more for the zero vector: those of the workers may then sum to less than 1.

    The credit of rejected rows goes to the zero vector.
    """

    def __init__(self, num_rows: int) -> None:
        super().__init__(num_rows)
        self.space = spaces.Box(0.0, 1.0, (num_rows + 1,), np.float32)

    def decode(self, actions: np.ndarray, view: ServerView) -> Decision:
        """See `Actions.decode`; entries must be finite and not negative."""
        credits = self._normalised(actions, view)[:, : self.num_rows]
        return Decision.from_credits(credits.masked_fill(view.rejected, 0), view)

    def encode(self, decision: Decision, view: ServerView) -> np.ndarray:
        """See `Actions.encode`."""
        credits = _credits_of(decision)
        slot = 1 - credits.sum(1, keepdim=True).clamp(max=1)
        return torch.cat([credits, slot], 1).cpu().numpy().astype(np.float32)


class UpdateActions(Actions):
    """The update itself, ``Box(-m, m, (d,))``, m the largest float32: for rules without credits."""

    def __init__(self, num_parameters: int) -> None:
        self.space = spaces.Box(-LARGEST, LARGEST, (num_parameters,), np.float32)

    def decode(self, actions: np.ndarray, view: ServerView) -> Decision:
        """See `Actions.decode`; entries must be finite."""
        actions = self._numbers(actions, view)
        if not np.isfinite(actions).all():
            raise ValueError("action must be a finite vector, got NaN or infinite entries")
        return Decision(torch.from_numpy(actions.astype(np.float32)).to(view.theta.device))

    def encode(self, decision: Decision, view: ServerView) -> np.ndarray:
        """See `Actions.encode`."""
        return decision.update.detach().clamp(-LARGEST, LARGEST).cpu().numpy().astype(np.float32)


class RuleActions(Actions):
    """The number of the rule that aggregates this round: ``Discrete(len(rules))``.

    A rule is told the environment's (upper) f, or the largest it accepts. Attacks that know the server's rule
    are shown the one used last, and in the first round the first.
    """

    def __init__(self, rules: Sequence[RuleSpec], simulation: Simulation) -> None:
        self.rules: list[Rule] = [
            make_for(rule, simulation.num_rows, simulation.most_byzantine) for rule in rules
        ]
        self._names = [described(rule) for rule in rules]
        self.space = spaces.Discrete(len(self.rules))
        self._simulation = simulation
        simulation.use_rules([shown_rule(rule) for rule in self.rules])

    def decode(self, actions: np.ndarray, view: ServerView) -> Decision:
        """See `Actions.decode`; entries must be whole numbers from 0 to the number of rules - 1."""
        most = len(self.rules) - 1
        if (
            actions.shape != (view.num_envs,)
            or actions.dtype.kind not in "iu"
            or actions.min() < 0
            or actions.max() > most
        ):
            raise ValueError(f"action must be a whole number from 0 to {most}, got {actions.tolist()}")
        numbers = torch.from_numpy(actions.astype(np.int64)).to(view.theta.device)
        update = torch.empty_like(view.theta)
        credits = torch.full_like(view.previous_credits, torch.nan)
        for number in sorted(set(actions.tolist())):
            envs = (numbers == number).nonzero()[:, 0]
            part = view if len(envs) == view.num_envs else view.of(envs)
            with blamed(f"rule {self._names[number]!r}"):
                decision = self.rules[number].decide(part)
                update[envs] = decision.update.to(update)
                if decision.credits is not None:
                    credits[envs] = decision.credits.to(credits)
        self._simulation.use_rules(self._simulation.rules, numbers)  # last: a rule may fail
        return Decision(update, credits)

    def encode(self, decision: Decision, view: ServerView) -> np.ndarray:
        """See `Actions.encode`."""
        raise ValueError("an environment with action='rule' takes numbers of rules; use action='update'")

    def check_policy(self, policy: Any) -> None:
        """See `Actions.check_policy`."""
        raise ValueError(
            f"{policy!r} cannot act in an environment with action='rule', which takes numbers of rules; make "
            "it with action='credits' or action='update'"
        )


KINDS = ("credits", "null_slot", "rule", "update")


def make_actions(kind: str, rules: Any, simulation: Simulation) -> Actions:
    """The actions of an environment, from its arguments ``action`` and ``rules``."""
    check_choice("action", kind, KINDS)
    if kind != "rule":
        if rules is not None:
            raise ValueError(f"rules is for action='rule', got action={kind!r}")
        if kind == "update":
            return UpdateActions(simulation.num_parameters)
        return (CreditActions if kind == "credits" else NullSlotActions)(simulation.num_rows)
    if isinstance(rules, str) or not isinstance(rules, Sequence) or not rules:
        raise ValueError(f"rules must be a list of at least one rule with action='rule', got {rules!r}")
    return RuleActions(rules, simulation)


def shown_rule(policy: Any) -> Any:
    """What attacks that know the server's rule are shown: a rule of submissions alone, else the mean."""
    return policy if isinstance(policy, Rule) and not isinstance(policy, ServerRule) else Mean()


def as_array(actions: Any) -> np.ndarray:
    """Actions as an array; a ValueError if none can be made of them."""
    try:
        return np.asarray(actions)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"action must be an array of numbers, got {actions!r}: {error}") from None


def _credits_of(decision: Decision) -> Tensor:
    if decision.credits is None or decision.credits.isnan().any():
        raise NotLinearError("the decision has no credits, which are the actions here; use action='update'")
    return decision.credits
