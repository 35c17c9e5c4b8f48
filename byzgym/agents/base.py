"""What an agent is: a policy that can be put to work in an environment."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch

from byzgym.aggregation import Policy
from byzgym.envs import ByzantineAggregationEnv, ByzantineAggregationVectorEnv
from byzgym.envs.actions import shown_rule
from byzgym.simulation import Simulation
from byzgym.simulation.config import DEFAULT_ATTACKS, named_attacks


class Agent(Policy):
    """A policy that also answers `predict`, as stable-baselines3's models do.

    `evaluate_policy` of stable-baselines3 and loops over Gymnasium environments can use it then. An agent
    whose decisions have credits acts in an environment with ``action="credits"`` (or "null_slot"), every
    agent in one with ``action="update"``.

    Example:
        >>> import gymnasium as gym, byzgym
        >>> env = gym.make("ByzantineAggregation-v0", task="synthetic", rounds=5)
        >>> agent = byzgym.agents.make("krum").bind(env)
        >>> observation, info = env.reset(seed=0)
        >>> action, _ = agent.predict(observation)
        >>> action.shape
        (10,)
    """

    _env: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy that acts in the same environment."""
        for shared in (self._env, getattr(self._env, "simulation", None)):
            memo[id(shared)] = shared
        twin = memo[id(self)] = object.__new__(type(self))
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin

    def bind(self, env: Any) -> Self:
        """Attach to an environment whose rounds `predict` is to decide.

        Args:
            env: A ``ByzantineAggregation-v0``, single or vector, wrapped or not, or a stable-baselines3
                environment around it.

        Returns:
            The agent.

        Raises:
            ValueError: If the environment is another, holds several single ones, has a wrapper that changes
                its actions, or takes actions that the agent cannot give.
            NotLinearError: If the environment takes credits and the agent gives none.
        """
        inner = _unwrapped(env)
        space, offered = _single_space(inner, "action"), _single_space(env, "action")
        if offered != space:
            raise ValueError(
                f"env must take the actions {space}, got {offered}; bind the agent to the environment "
                "without the wrapper that changes them"
            )
        num_envs = getattr(env, "num_envs", 1)
        if num_envs != inner.simulation.num_envs:
            raise ValueError(
                f"env must be a native vector environment (gym.make_vec) to hold {num_envs} environments, "
                f"got {env!r}"
            )
        self._attach(inner.simulation)
        inner.actions.check_policy(self)
        self._env = inner
        self._observation_space = _single_space(env, "observation")
        self.reset()
        return self

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """The action for the present round of the environment given to `bind`.

        The observation is only looked at for whether it is a batch: the agent reads the environment's
        `ServerView`. The agent is reset where an episode begins.

        Args:
            observation: What the environment returned last.
            state: Passed through.
            episode_start: Environments whose episode begins in this round, bool [E]. Round 0 says so, too.
            deterministic: No effect; the agents of byzgym decide deterministically given their seed.

        Returns:
            The action, or for a batch one per environment; and ``state``.

        Raises:
            RuntimeError: If the agent has not been given an environment.
        """
        if self._env is None:
            raise RuntimeError("predict needs an environment; call agent.bind(env) first")
        view = self._env.view
        began = view.round == 0
        if episode_start is not None:
            began = began | torch.as_tensor(np.atleast_1d(episode_start), device=began.device).bool()
        if began.any():
            self.reset(began)
        actions = self._env.actions.encode(self.decide(view), view)
        return (actions if self._is_batch(observation) else actions[0]), state

    def differences(self, arguments: Mapping[str, Any]) -> list[str]:
        """What was otherwise in the agent's training than these arguments of a simulation or environment say.

        Each is one line of text. Those of inner agents begin with a name. There is none for an agent that has
        not been trained.
        """
        return [f"{name_of(agent)}: {line}" for agent in self.inner for line in agent.differences(arguments)]

    @property
    def inner(self) -> tuple[Agent, ...]:
        """The agents that this one asks for their decisions."""
        return ()

    def _attach(self, simulation: Simulation) -> None:
        """Take from the simulation what the agent may know, and tell it the rule that attacks may know."""
        simulation.rule = shown_rule(self)

    def _is_batch(self, observation: Any) -> bool:
        if observation is None:
            return hasattr(self._env, "single_action_space")
        space = self._observation_space
        while isinstance(observation, dict):
            name = next(iter(observation))
            observation, space = observation[name], space[name]
        return np.ndim(observation) > len(space.shape)


def action_of(agent: Agent, arguments: Mapping[str, Any]) -> str:
    """The kind of actions with which an agent plays in an environment with these arguments.

    It is "update" if the agent gives no credits, as a reference does not under faults in transmission, else
    "null_slot", because credits may sum to less than 1.
    """
    attacks = arguments.get("attack", DEFAULT_ATTACKS)
    without = agent.reference and any(attack.is_fault for attack in named_attacks(attacks))
    return "null_slot" if agent.linear and not without else "update"


def name_of(agent: Agent) -> str:
    """What notes and errors call an agent that is inside another one."""
    return str(getattr(agent, "name", repr(agent)))


def _single_space(env: Any, kind: str) -> Any:
    return getattr(env, f"single_{kind}_space", None) or getattr(env, f"{kind}_space")


def _unwrapped(env: Any) -> Any:
    """The environment of byzgym under all wrappers."""
    given = env
    while env is not None:
        inner = getattr(env, "unwrapped", env)
        if isinstance(inner, ByzantineAggregationEnv | ByzantineAggregationVectorEnv):
            return inner
        # stable-baselines3's wrappers name what they wrap `venv`, its DummyVecEnv `envs`.
        env = getattr(env, "venv", None) or next(iter(getattr(env, "envs", [])), None)
    raise ValueError(f"env must be a ByzantineAggregation environment, possibly wrapped, got {given!r}")
