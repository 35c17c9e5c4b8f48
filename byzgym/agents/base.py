"""What an agent is: something that credits workers round by round, and predicts like stable-baselines3."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from byzgym.aggregation import (
    Mean,
    NotLinearError,
    ServerView,
    accepted,
    checked_credits,
    checked_update,
    combine,
)


class Agent(ABC):
    """Decides in every round how to aggregate, from the `ServerView` alone.

    A subclass gives `credits`, or overrides `aggregate` where no credit vector expresses what it does.
    With `bind`, an agent also answers `predict`, as stable-baselines3's models do, so that `evaluate_policy`
    and loops over Gymnasium environments can use it.

    Attributes:
        linear: Whether `credits` exists.
        reference: Whether the agent sees more than a server would; tables mark it as a reference.
    """

    linear: bool = True
    reference: ClassVar[bool] = False
    _env: Any = None
    __last: ServerView | None = None  # what `predict` decided on last

    def reset(self, envs: Tensor | None = None) -> None:  # noqa: B027
        """Forget the present runs, before new ones begin.

        Args:
            envs: Which environments, bool of shape [E]; all where None.
        """

    @abstractmethod
    def credits(self, view: ServerView) -> Tensor:
        """Credits for the submissions in ``view``, shape [E, n], on the simplex.

        Rejected submissions get none.

        Raises:
            NotLinearError: If no credit vector expresses what the agent does.
        """

    def aggregate(self, view: ServerView) -> Tensor:
        """The update for the submissions in ``view``, shape [E, d]."""
        return combine(self.credits(view), view.gradients)

    def bind(self, env: Any) -> Self:
        """Attach to an environment whose rounds `predict` is to decide, best before its first reset.

        Args:
            env: A `ByzantineAggregation-v0`, single or vector, wrapped or not, or a stable-baselines3
                environment around it.

        Raises:
            ValueError: If the environment offers no `ServerView`, holds several single environments, or has a
                wrapper after which actions are no longer credits.
        """
        inner = _with_view(env)
        if _action_space(env) != _action_space(inner):
            raise ValueError(
                f"env must take credits as actions, {_action_space(inner)}, got {_action_space(env)}; "
                "bind the agent to the environment without the wrapper that changes them"
            )
        num_envs = getattr(env, "num_envs", 1)
        if num_envs != inner.view.num_envs:
            raise ValueError(
                f"env must be a native vector environment (gym.make_vec) to hold {num_envs} environments, "
                f"got {env!r}"
            )
        self._env = inner
        if getattr(inner, "simulation", None) is not None:
            inner.simulation.rule = Mean()  # what attacks with this knowledge are shown
        self._observation_space = getattr(env, "single_observation_space", None) or env.observation_space
        self.__last = None
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
        `ServerView`. An agent without credits hands its vector to the environment (`use_update`) and
        returns an action that the environment then ignores; so does one whose credits sum to less than 1.

        Args:
            observation: What the environment returned last.
            state: Passed through.
            episode_start: Environments whose episode begins in this round, bool [E]. In an environment of
                byzgym round 0 says so, too: an agent is reset once for every episode, told or not.
            deterministic: No effect; the agents of byzgym decide deterministically given their seed.

        Returns:
            Credits, shape [n] or, for a batch, [E, n]; and ``state``.

        Raises:
            RuntimeError: If the agent has not been given an environment.
            TypeError, ValueError: If what the agent gives are no credits and no aggregate, see
                `checked_credits` and `checked_update`.
        """
        if self._env is None:
            raise RuntimeError("predict needs an environment; call agent.bind(env) first")
        view: ServerView = self._env.view
        began = self._beginning(view, episode_start)
        if began.any():
            self.reset(began)
        credits = credits_if_any(self, view)
        if credits is None:
            self._env.use_update(checked_update(self, self.aggregate(view), view))
            actions = np.zeros((view.num_envs, *_action_space(self._env).shape), np.float32)
        else:
            actions = self._as_action(credits, view)
        return (actions if self._is_batch(observation) else actions[0]), state

    def save(self, path: str | Path) -> None:
        """Write what the agent has learned to a file.

        Raises:
            TypeError: If the agent learns nothing that a file could hold.
        """
        raise TypeError(f"{type(self).__name__} learns nothing, so there is nothing to save")

    def load(self, path: str | Path) -> Self:
        """Read what `save` wrote, and return the agent."""
        raise TypeError(f"{type(self).__name__} learns nothing, so there is nothing to load")

    def _beginning(self, view: ServerView, episode_start: np.ndarray | None) -> Tensor:
        """Environments [E] that begin an episode, as the caller or round 0 says.

        Views of a training job need not count rounds, and are made anew whenever they are asked for.
        """
        began = torch.zeros_like(view.round, dtype=torch.bool)
        if episode_start is not None:
            began |= torch.as_tensor(np.atleast_1d(episode_start), device=began.device).bool()
        if self.__last is not view and hasattr(self._env, "simulation"):
            began |= view.round == 0
        self.__last = view
        return began

    def _as_action(self, credits: Tensor, view: ServerView) -> np.ndarray:
        if _action_space(self._env).shape[0] > credits.shape[1]:  # the null slot takes what is left
            credits = torch.cat([credits, 1 - credits.sum(1, keepdim=True).clamp(max=1)], 1)
        elif ((credits.sum(1) < 1 - 1e-4) & ~view.rejected.all(1)).any():
            # An action is brought to the simplex: credit for nobody would be the same for all.
            self._env.use_update(combine(credits, view.gradients), credits)
            credits = torch.zeros_like(credits)
        return credits.cpu().numpy().astype(np.float32)

    def _is_batch(self, observation: Any) -> bool:
        if observation is None:
            return hasattr(self._env, "single_action_space")
        space = self._observation_space
        while isinstance(observation, dict):
            name = next(iter(observation))
            observation, space = observation[name], space[name]
        return np.ndim(observation) > len(space.shape)


def credits_if_any(agent: Agent, view: ServerView) -> Tensor | None:
    """The agent's credits [E, n], checked; None where no credit vector expresses what it does.

    Raises:
        TypeError, ValueError: If what it gives are no credits, see `checked_credits`.
    """
    if agent.linear:
        try:
            return checked_credits(agent, agent.credits(view), view)
        except NotLinearError:
            pass
    return None


class ForeignAgent(Agent):
    """Gives an object with `reset` and `credits(view)` or `aggregate(view)` the rest of an agent's methods.

    Raises:
        TypeError: If the object has none of the two.
    """

    def __init__(self, agent: Any) -> None:
        self.linear = callable(getattr(agent, "credits", None))
        if not (self.linear or callable(getattr(agent, "aggregate", None))):
            raise TypeError(f"an agent needs credits(view) or aggregate(view), got {agent!r}")
        self.wrapped = agent

    def reset(self, envs: Tensor | None = None) -> None:
        """Reset the wrapped agent: in ``envs`` if its method has such a parameter, else as a whole."""
        reset = getattr(self.wrapped, "reset", None)
        if reset is not None:
            reset(**({"envs": envs} if "envs" in inspect.signature(reset).parameters else {}))

    def credits(self, view: ServerView) -> Tensor:
        """See `Agent.credits`."""
        if not self.linear:
            raise NotLinearError(f"{type(self.wrapped).__name__} has no credits, only aggregate(view)")
        return accepted(checked_credits(self.wrapped, self.wrapped.credits(view), view), view.rejected)

    def aggregate(self, view: ServerView) -> Tensor:
        """See `Agent.aggregate`."""
        return self.wrapped.aggregate(view) if hasattr(self.wrapped, "aggregate") else super().aggregate(view)

    def save(self, path: str | Path) -> None:
        """Have the wrapped agent save itself."""
        self._own("save")(path)

    def load(self, path: str | Path) -> Self:
        """Have the wrapped agent load itself, or take its place the one that its class loads."""
        loaded = self._own("load")(path)
        if isinstance(loaded, type(self.wrapped)):
            self.wrapped = loaded
        return self

    def _own(self, name: str) -> Any:
        method = getattr(self.wrapped, name, None)
        if not callable(method):
            raise TypeError(f"{type(self.wrapped).__name__} has no method {name}(path)")
        return method


def _action_space(env: Any) -> Any:
    return getattr(env, "single_action_space", None) or env.action_space


def _with_view(env: Any) -> Any:
    """The innermost environment that has a view."""
    given, seen = env, list[Any]()
    while env is not None and not any(env is other for other in seen):
        seen.append(env)
        inner = getattr(env, "unwrapped", env)
        if "view" in dir(type(inner)):
            return inner
        # stable-baselines3's wrappers name what they wrap `venv`, its DummyVecEnv `envs`.
        env = getattr(env, "venv", None) or next(iter(getattr(env, "envs", [])), None)
    raise ValueError(f"env must be a ByzantineAggregation environment, possibly wrapped, got {given!r}")
