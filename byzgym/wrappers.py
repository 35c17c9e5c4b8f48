"""Wrappers that change what an action is: logits instead of credits, or a choice among rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorActionWrapper, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from torch import Tensor

from byzgym.aggregation import (
    Rule,
    RuleOfEach,
    ServerView,
    apply_to_view,
    combine,
    credits_for_view,
    make_within,
)
from byzgym.validation import check_real

AnyRule = Callable[[Tensor], Tensor]
AnyRuleSpec = str | Mapping[str, Any] | AnyRule


def softmax_credits(logits: np.ndarray, beta: float) -> np.ndarray:
    """softmax(beta * logits) over the last axis, float32.

    Args:
        logits: Shape [..., n].
        beta: Inverse temperature.

    Raises:
        ValueError: If the logits are not numbers, not finite, or none.
    """
    try:
        given = np.asarray(logits)
        scaled = beta * given.astype(np.float64, casting="same_kind")
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"action must be an array of numbers, got {logits!r}") from None
    if not scaled.size or not np.isfinite(scaled).all():
        raise ValueError(f"action must be logits, finite numbers, got {logits!r}")
    weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


class SoftmaxCredits(gym.ActionWrapper[Any, np.ndarray, np.ndarray], RecordConstructorArgs):
    """Logits in [-1, 1] as actions; the credits are softmax(beta * logits).

    Suits policies with Gaussian actions, which do not stay on the simplex. ``beta`` bounds how little credit
    a worker can get: f of n workers have together at least f / (f + (n - f) exp(2 beta)), which for n=20 and
    f=8 is 8.3 % at beta 1 and 3e-5 at beta 5. What `gymnasium.make_vec` returns is wrapped in
    `VectorSoftmaxCredits` (its argument ``wrappers`` is for environments without a vector form).

    Args:
        env: An environment whose actions are credits, with or without a null slot (then the last logit is the
            slot's).
        beta: Inverse temperature, greater than 0.

    Raises:
        ValueError: If ``beta`` is not a finite number greater than 0, or actions are not credits.
    """

    def __init__(self, env: gym.Env[Any, np.ndarray], beta: float = 5.0) -> None:
        self.beta = check_real("beta", beta, above=0)
        RecordConstructorArgs.__init__(self, beta=self.beta)
        gym.ActionWrapper.__init__(self, env)
        self.action_space = _logit_space(env.action_space)

    def action(self, action: np.ndarray) -> np.ndarray:
        """Credits [n] on the simplex for logits [n]."""
        return softmax_credits(action, self.beta)


class VectorSoftmaxCredits(VectorActionWrapper):
    """`SoftmaxCredits` for the native vector environment.

    Args:
        env: A vector environment whose actions are credits.
        beta: Inverse temperature, greater than 0.

    Raises:
        ValueError: If ``beta`` is not a finite number greater than 0, or actions are not credits.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], beta: float = 5.0) -> None:
        super().__init__(env)
        self.beta = check_real("beta", beta, above=0)
        self.single_action_space = _logit_space(env.single_action_space)
        self.action_space = batch_space(self.single_action_space, env.num_envs)

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """Credits [E, n] on the simplex for logits [E, n]."""
        return softmax_credits(actions, self.beta)


class RuleSelection(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """An action is the number of the rule that aggregates this round.

    Rules that no credit vector can express, such as the coordinate-wise ones, act in the environment this
    way; ``info["credits"]`` is then NaN (for which Gymnasium's `check_env` takes two equal runs for different
    ones). Attacks that know the server's rule are shown the one used last, and in the first round the first
    of ``rules``.

    Args:
        env: A ``ByzantineAggregation-v0``, single, without wrappers that change its actions.
        rules: For each action a name, or a mapping with the name and parameters. Where a mapping has no
            ``num_byzantine``, the rule is told the environment's (upper) number f of Byzantine workers, or
            the largest that it accepts where that is less. A callable ``gradients -> vector`` will do
            too, but then the spec is no longer JSON.

    Raises:
        ValueError: If ``rules`` is empty, a name is unknown, a rule does not accept its f or any f for so few
            workers, or a wrapper underneath changes actions.
        TypeError: If ``rules`` is not a sequence of these, or a parameter does not exist.
    """

    def __init__(self, env: gym.Env[Any, np.ndarray], rules: Sequence[AnyRuleSpec]) -> None:
        specs = _checked_specs(rules)
        RecordConstructorArgs.__init__(self, rules=specs)
        gym.Wrapper.__init__(self, env)
        self.rules = _rules_for(specs, env, getattr(env.unwrapped, "action_space", None), env.action_space)
        self.action_space = spaces.Discrete(len(self.rules))
        self._ignored = np.zeros(env.action_space.shape or (), dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin a new episode."""
        server: Any = self.env.unwrapped
        server.simulation.rule = self.rules[0]
        return self.env.reset(seed=seed, options=options)

    def step(self, action: int | np.integer[Any]) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Play one round with rule number ``action``.

        Raises:
            ValueError: If the action is not from 0 to the number of rules - 1.
        """
        if isinstance(action, bool) or not self.action_space.contains(action):
            raise ValueError(f"action must be from 0 to {len(self.rules) - 1}, got {action!r}")
        server: Any = self.env.unwrapped
        rule = self.rules[int(action)]
        server.simulation.rule = rule
        server.use_update(*_aggregate(rule, server.view))
        return self.env.step(self._ignored)


class VectorRuleSelection(VectorWrapper):
    """`RuleSelection` for the native vector environment: the number of a rule for each environment.

    Args:
        env: A vector environment made by ``gym.make_vec``, without wrappers that change its actions.
        rules: See `RuleSelection`. Where environments differ in f, every rule is told the largest.

    Raises:
        ValueError, TypeError: See `RuleSelection`.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], rules: Sequence[AnyRuleSpec]) -> None:
        super().__init__(env)
        credits = getattr(env.unwrapped, "single_action_space", None)
        self.rules = _rules_for(_checked_specs(rules), env, credits, env.single_action_space)
        self._ignored = np.zeros(env.action_space.shape or (), dtype=np.float32)
        self.single_action_space = spaces.Discrete(len(self.rules))
        self.action_space = batch_space(self.single_action_space, env.num_envs)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin new episodes; see the environment."""
        server: Any = self.env.unwrapped
        if server.simulation.rules != self.rules:  # environments that go on keep theirs
            server.simulation.use_rules(self.rules)
        return self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Play one round, in environment e with rule number ``actions[e]``.

        Raises:
            ValueError: If the actions are not E whole numbers from 0 to the number of rules - 1.
        """
        server: Any = self.env.unwrapped
        view = server.view
        in_use = RuleOfEach(self.rules, self._numbers(actions).to(view.theta.device))
        update = torch.empty_like(view.theta)
        credits = torch.full_like(view.previous_credits, torch.nan)
        for number, runs in in_use.groups():
            whole = len(runs) == self.num_envs
            vector, given = _aggregate(self.rules[number], view if whole else view.of(runs))
            update[runs] = vector.to(update)
            if given is not None:
                credits[runs] = given
        server.simulation.use_rules(self.rules, in_use.numbers)
        server.use_update(update, credits)
        return self.env.step(self._ignored)

    def _numbers(self, actions: Any) -> Tensor:
        most = len(self.rules) - 1
        try:
            numbers = np.asarray(actions)
        except (ValueError, RuntimeError):  # ragged, or a tensor with a graph
            numbers = np.zeros(())
        fits = numbers.shape == (self.num_envs,) and numbers.dtype.kind in "iu"
        if not fits or numbers.min() < 0 or numbers.max() > most:
            raise ValueError(
                f"actions must be {self.num_envs} whole numbers from 0 to {most}, got {actions!r}"
            )
        return torch.from_numpy(numbers.astype(np.int64))


def _checked_specs(rules: Any) -> list[AnyRuleSpec]:
    if isinstance(rules, str) or not isinstance(rules, Sequence):
        raise TypeError(f"rules must be a list of names or mappings, got {rules!r}")
    if not rules:
        raise ValueError("rules must name at least one rule, got an empty list")
    return [dict(rule) if isinstance(rule, Mapping) else rule for rule in rules]


def _rules_for(
    specs: Sequence[AnyRuleSpec], env: Any, credits: spaces.Space[Any] | None, actions: spaces.Space[Any]
) -> list[AnyRule]:
    """The rules, checked; ``credits`` and ``actions`` are the action spaces within and without wrappers."""
    simulation = getattr(env.unwrapped, "simulation", None)
    if simulation is None:
        raise ValueError(f"env must be a ByzantineAggregation environment, possibly wrapped, got {env!r}")
    if actions != credits:
        raise ValueError(
            f"env must take credits as actions, {credits}, got {actions}; leave out the wrapper "
            "that changes them"
        )
    num_byzantine = simulation.most_byzantine
    return [_rule(spec, simulation.num_rows, num_byzantine) for spec in specs]


def _aggregate(rule: Any, view: ServerView) -> tuple[Tensor, Tensor | None]:
    """The vector [E, d] that the rule makes of a round, and the credits [E, n] of it, if it gives any."""
    if getattr(rule, "linear", False):
        credits = credits_for_view(rule, view)
        return combine(credits, view.gradients), credits
    return apply_to_view(rule, view), None


def _rule(spec: AnyRuleSpec, num_rows: int, num_byzantine: int) -> AnyRule:
    rule = make_within(spec, num_rows, num_byzantine) if isinstance(spec, str | Mapping) else spec
    if not callable(rule):
        raise TypeError(f"rules must be names, mappings or callables, got {spec!r}")
    if isinstance(rule, Rule):
        rule.check(torch.zeros(num_rows, 1))
    return rule


def _logit_space(space: spaces.Space[Any]) -> spaces.Box:
    if not isinstance(space, spaces.Box) or len(space.shape) != 1 or space.low.min() < 0:
        raise ValueError(f"the environment's actions must be credits, Box(0, 1, (n,)), got {space}")
    return spaces.Box(-1.0, 1.0, space.shape, np.float32)
