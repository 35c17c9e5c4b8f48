"""What the single and the vector environment share: one round, for all environments of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzgym.ambient import episode_seed, shielded
from byzgym.envs.actions import make_actions
from byzgym.envs.config import EnvConfig
from byzgym.envs.observations import ObservationBuilder
from byzgym.envs.rewards import WORST_REWARD, exploded, relative_drop
from byzgym.simulation import Simulation
from byzgym.simulation.config import SimulationConfig, byzantine_bounds, config_from, named_attacks
from byzgym.validation import check_int, unknown

RESET_OPTIONS = ("attack", "num_byzantine")
"""What `reset(options=...)` can say of the episodes that begin."""


@dataclass
class Outcome:
    """Results of a step, one entry per environment of the batch."""

    rewards: np.ndarray  # [E] float64
    terminated: np.ndarray  # [E] bool
    truncated: np.ndarray  # [E] bool
    info: dict[str, np.ndarray]  # name -> [E, ...]
    with_credits: np.ndarray  # [E] bool: where info["credits"] is meaningful
    metrics: dict[str, np.ndarray]  # name -> [E], meaningful where `evaluated`
    evaluated: np.ndarray  # [E] bool


class Core:
    """Simulation, observations, actions and rewards of E environments.

    Args:
        num_envs: E.
        arguments: Fields of `EnvConfig`.
        per_environment: See `Simulation.make`.
    """

    @shielded
    def __init__(
        self,
        num_envs: int,
        arguments: Mapping[str, Any],
        per_environment: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        config: EnvConfig = config_from(EnvConfig, arguments)
        self.config = config
        simulated = {field.name: getattr(config, field.name) for field in fields(SimulationConfig)}
        self.simulation = Simulation.make(num_envs, seed=0, per_environment=per_environment, **simulated)
        self.rounds = self.simulation.setup.rounds
        self.observations = ObservationBuilder(
            config.observation,
            config.pool_size,
            self.simulation.num_rows,
            self.simulation.num_parameters,
            self.rounds,
        )
        self.actions = make_actions(config.action, config.rules, self.simulation)
        if config.evaluate_every is not None:
            check_int("evaluate_every", config.evaluate_every, low=1)

    @shielded
    def reset(
        self,
        np_randoms: Sequence[np.random.Generator],
        envs: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin new episodes in ``envs`` (all where None), seeded from their NumPy generators.

        ``options`` are those that `check_options` has returned.
        """
        seeds = [episode_seed(generator) for generator in np_randoms]
        self.simulation.reset(seeds, envs, **(options or {}))

    def check_options(self, options: Any, others: Sequence[str] = ()) -> dict[str, Any]:
        """The options of a reset, checked before anything moves; ``others`` are names to allow beside.

        Raises:
            TypeError: If ``options`` is no mapping.
            ValueError: If an option is unknown or its value not allowed.
        """
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(f"options must be a mapping or None, got {options!r}")
        given = dict(options or {})
        for name in given:
            if name not in (*RESET_OPTIONS, *others):
                raise unknown("reset option", name, (*RESET_OPTIONS, *others))
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
        simulation = self.simulation
        view = simulation.view
        before = simulation.qv_loss()
        byzantine, rejected = simulation.byzantine_rows.clone(), view.rejected
        decision = self.actions.decode(actions, view)
        simulation.apply(decision, envs)
        after = simulation.qv_loss()
        diverged = simulation.diverged | exploded(after, simulation.initial_loss)
        rewards = relative_drop(before, after).masked_fill(diverged, WORST_REWARD)
        terminated = diverged.cpu().numpy().copy()
        round = simulation.server.round.cpu().numpy()
        truncated = (round >= self.rounds) & ~terminated
        evaluated = terminated | truncated
        if self.config.evaluate_every is not None:
            evaluated |= round % self.config.evaluate_every == 0
        credits = decision.credits
        if credits is None:
            credits = torch.full_like(view.previous_credits, torch.nan)
        info = self._info(credits, after, byzantine, rejected, diverged)
        info["update_norm"] = _fresh(torch.linalg.vector_norm(decision.update.double(), dim=1))
        return Outcome(
            rewards=rewards.double().cpu().numpy(),
            terminated=terminated,
            truncated=truncated,
            info=info,
            with_credits=~np.isnan(info["credits"][:, 0]),
            metrics=self.metrics() if evaluated.any() else {},
            evaluated=evaluated,
        )

    def metrics(self) -> dict[str, np.ndarray]:
        """Test metrics of all environments; for evaluation only."""
        return {name: _fresh(value.double()) for name, value in self.simulation.evaluate().items()}

    def reset_info(self) -> dict[str, np.ndarray]:
        """The `info` of a reset: nothing has been credited or applied yet."""
        simulation = self.simulation
        credits, rejected = simulation.previous_credits, simulation.view.rejected
        info = self._info(
            credits, simulation.qv_loss(), simulation.byzantine_rows, rejected, simulation.diverged
        )
        info["update_norm"] = np.zeros(simulation.num_envs)
        return info

    def _info(
        self, credits: Tensor, loss: Tensor, byzantine: Tensor, rejected: Tensor, diverged: Tensor
    ) -> dict[str, np.ndarray]:
        return {
            "credits": _fresh(credits),
            "qv_loss": _fresh(loss.double()),
            "byzantine": _fresh(byzantine),
            "rejected": _fresh(rejected),
            "diverged": _fresh(diverged),
            "attack": np.array(self.simulation.attack_names, dtype=object),
        }


def pick(info: Mapping[str, np.ndarray], env: int, with_credits: bool = True) -> dict[str, Any]:
    """The `info` of one environment: arrays of its own, Python numbers and text."""
    return {
        name: value[env].copy() if value.ndim > 1 else value.tolist()[env]
        for name, value in info.items()
        if with_credits or name != "credits"
    }


def _fresh(values: Tensor) -> np.ndarray:
    return np.array(values.detach().cpu().numpy())
