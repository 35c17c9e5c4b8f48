"""What the single and the vector environment share: one round, for all environments of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzgym.aggregation import ServerView
from byzgym.ambient import episode_seed, shielded
from byzgym.envs.actions import Actions, make_actions
from byzgym.envs.config import EnvConfig
from byzgym.envs.observations import make_observations
from byzgym.envs.rewards import FORMS, WORST_REWARD, exploded
from byzgym.simulation import Simulation
from byzgym.simulation.config import SimulationConfig, byzantine_bounds, config_from, named_attacks
from byzgym.validation import check_choice, check_int, unknown


@dataclass
class Outcome:
    """Results of a step, one entry per environment of the batch."""

    rewards: np.ndarray  # [E] float64
    terminated: np.ndarray  # [E] bool
    truncated: np.ndarray  # [E] bool
    info: dict[str, np.ndarray]  # name -> [E, ...]; credits are NaN where the update has none
    metrics: dict[str, np.ndarray]  # name -> [E], meaningful where `evaluated`; NaN where there is none
    evaluated: np.ndarray  # [E] bool


class Core:
    """Simulation, observations, actions and rewards of E environments."""

    @shielded
    def __init__(
        self,
        num_envs: int,
        arguments: Mapping[str, Any],  # fields of `EnvConfig`
        per_environment: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.config: EnvConfig = config_from(EnvConfig, arguments)
        if check_int("num_servers", self.config.num_servers, low=1) > 1:
            raise ValueError(
                "num_servers must be 1 in an environment, whose agent decides for all parameters at once, "
                f"got {self.config.num_servers}; a comparison and Simulation.make take more"
            )
        simulated = {field.name: getattr(self.config, field.name) for field in fields(SimulationConfig)}
        simulation = Simulation.make(num_envs, seed=0, per_environment=per_environment, **simulated)
        self.simulation = simulation
        self.rounds = simulation.setup.rounds
        self.observations = make_observations(
            self.config, simulation.num_rows, simulation.num_parameters, self.rounds
        )
        self._reward = FORMS[check_choice("reward_form", self.config.reward_form, FORMS)]
        self.actions = make_actions(self.config.action, self.config.rules, simulation)
        if self.config.evaluate_every is not None:
            check_int("evaluate_every", self.config.evaluate_every, low=1)

    @shielded
    def reset(
        self,
        np_randoms: Sequence[np.random.Generator],
        envs: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,  # from `check_options`
    ) -> None:
        """Begin new episodes in ``envs`` (all where None), seeded from their NumPy generators."""
        seeds = [episode_seed(generator) for generator in np_randoms]
        self.simulation.reset(seeds, envs, **(options or {}))

    def check_options(self, options: Any, *others: str) -> dict[str, Any]:
        """The options of a reset, checked before anything moves; ``others`` are names to allow beside."""
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(f"options must be a mapping or None, got {options!r}")
        given = dict(options or {})
        known = ("attack", "num_byzantine", *others)
        for name in given:
            if name not in known:
                raise unknown("reset option", name, known)
        if given.get("attack") is not None:
            named_attacks(given["attack"])
        if given.get("num_byzantine") is not None:
            byzantine_bounds(given["num_byzantine"], self.simulation.setup.num_workers)
        return given

    def observe(self) -> Any:
        """Observations of all environments."""
        return self.observations(self.simulation.view)

    @shielded
    def step(self, actions: np.ndarray, envs: Sequence[int] | None = None) -> Outcome:
        """Play a round in ``envs`` (all where None) and measure it."""
        simulation, view = self.simulation, self.simulation.view
        before, byzantine = simulation.reward_loss(), simulation.byzantine_rows.clone()
        decision = self.actions.decode(actions, view)
        simulation.apply(decision, envs)
        diverged = simulation.diverged | exploded(simulation.qv_loss_of_step(), simulation.initial_loss)
        rewards = self._reward(before, simulation.reward_loss_of_step())
        rewards = rewards.masked_fill(diverged, WORST_REWARD)
        terminated = _to_numpy(diverged)
        round = simulation.server.round.cpu().numpy()
        truncated = (round >= self.rounds) & ~terminated
        evaluated = terminated | truncated
        if self.config.evaluate_every is not None:
            evaluated |= round % self.config.evaluate_every == 0
        credits = decision.credits
        if credits is None:
            credits = torch.full_like(view.previous_credits, torch.nan)
        info = self._info(credits, byzantine, view.rejected, diverged)
        info["update_norm"] = _to_numpy(torch.linalg.vector_norm(decision.update.double(), dim=1))
        return Outcome(
            rewards=_to_numpy(rewards.double()),
            terminated=terminated,
            truncated=truncated,
            info=info,
            metrics=self.metrics() if evaluated.any() else {},
            evaluated=evaluated,
        )

    def metrics(self) -> dict[str, np.ndarray]:
        """Test metrics of all environments; for evaluation only."""
        return {name: _to_numpy(value.double()) for name, value in self.simulation.evaluate().items()}

    def reset_info(self) -> dict[str, np.ndarray]:
        """The `info` of a reset: nothing has been credited or applied yet."""
        simulation, view = self.simulation, self.simulation.view
        info = self._info(
            view.previous_credits, simulation.byzantine_rows, view.rejected, simulation.diverged
        )
        return info | {"update_norm": np.zeros(simulation.num_envs)}

    def _info(
        self, credits: Tensor, byzantine: Tensor, rejected: Tensor, diverged: Tensor
    ) -> dict[str, np.ndarray]:
        return {
            "credits": _to_numpy(credits),
            "qv_loss": _to_numpy(self.simulation.qv_loss().double()),
            "byzantine": _to_numpy(byzantine),
            "rejected": _to_numpy(rejected),
            "diverged": _to_numpy(diverged),
            "attack": np.array(self.simulation.attack_names, dtype=object),
        }


class Shell:
    """What both environments show of their `Core`."""

    _core: Core

    @property
    def simulation(self) -> Simulation:
        """The simulation underneath. For evaluation and reference controls, not for agents."""
        return self._core.simulation

    @property
    def view(self) -> ServerView:
        """What the server knows in this round: all that an agent may use."""
        return self._core.simulation.view

    @property
    def actions(self) -> Actions:
        """The kind of actions: turns actions into decisions and a policy's decisions into actions."""
        return self._core.actions


def pick(info: Mapping[str, np.ndarray], env: int) -> dict[str, Any]:
    """The `info` of one environment: arrays of its own, Python numbers and text."""
    return {
        name: value[env].copy() if value.ndim > 1 else value.tolist()[env]
        for name, value in info.items()
        if name not in ("credits", "attack_success_rate") or not np.isnan(value[env]).any()
    }


def row(observation: Any, env: int) -> Any:
    """The observation of one environment, in arrays of its own."""
    if isinstance(observation, dict):
        return {name: value[env].copy() for name, value in observation.items()}
    return observation[env].copy()


def _to_numpy(values: Tensor) -> np.ndarray:
    """A copy, because callers keep what they are given."""
    return np.array(values.detach().cpu().numpy())
