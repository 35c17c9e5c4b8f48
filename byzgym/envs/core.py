"""What the single and the vector environment share: one round, for all environments of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzgym.aggregation import combine
from byzgym.ambient import episode_seed
from byzgym.envs.actions import CreditActions
from byzgym.envs.observations import ObservationBuilder
from byzgym.envs.rewards import WORST_REWARD, exploded, relative_drop
from byzgym.simulation import Simulation
from byzgym.validation import check_int


@dataclass
class Outcome:
    """Results of a step, one entry per environment of the batch."""

    rewards: np.ndarray  # [E] float64
    terminated: np.ndarray  # [E] bool
    truncated: np.ndarray  # [E] bool
    info: dict[str, np.ndarray]  # name -> [E, ...]
    metrics: dict[str, np.ndarray]  # name -> [E], meaningful where `evaluated`
    evaluated: np.ndarray  # [E] bool


class Core:
    """Simulation, observations, actions and rewards of E environments.

    Args:
        num_envs: E.
        observation: See `ObservationBuilder`.
        pool_size: See `ObservationBuilder`.
        action: See `CreditActions`.
        evaluate_every: Rounds between evaluations on test data (only at the end of an episode where None).
        simulation: The arguments of the simulation.
    """

    @torch.inference_mode(False)  # what is kept must outlive a caller's inference mode
    def __init__(
        self,
        num_envs: int,
        observation: str | Sequence[str],
        pool_size: int | None,
        action: str,
        evaluate_every: int | None,
        simulation: Mapping[str, Any],
    ) -> None:
        self.simulation = Simulation.make(num_envs, seed=0, **simulation)
        settings = self.simulation.settings
        self.rounds = settings.rounds
        self.observations = ObservationBuilder(
            observation, pool_size, self.simulation.num_rows, self.simulation.num_parameters, settings.rounds
        )
        self.actions = CreditActions(action, self.simulation.num_rows)
        if evaluate_every is not None:
            check_int("evaluate_every", evaluate_every, low=1)
        self._evaluate_every = evaluate_every
        self._override: tuple[Tensor, Tensor | None] | None = None

    @torch.inference_mode(False)
    def reset(self, np_randoms: Sequence[np.random.Generator], envs: Sequence[int] | None = None) -> None:
        """Begin new episodes in ``envs`` (all where None), seeded from their NumPy generators."""
        self.simulation.reset([episode_seed(generator) for generator in np_randoms], envs)
        self._override = None

    def observe(self) -> Any:
        """Observations of all environments."""
        return self.observations(self.simulation.view)

    def use_update(self, update: Tensor, credits: Tensor | None = None) -> None:
        """Let the next step apply this vector [E, d], if its action is all zero.

        Coordinate-wise rules, which no credit vector can express, act this way. Where there are credits
        [E, rows] that made it, the step reports and remembers these, with NaN for an environment that
        has none. A step with another action, or one that fails, forgets the vector.
        """
        self._override = update, credits

    def array(self, actions: Any) -> np.ndarray:
        """The actions as an array; if they are none, the vector of `use_update` is forgotten.

        Raises:
            ValueError: If no array can be made of them.
        """
        try:
            return np.asarray(actions)
        except (TypeError, ValueError, RuntimeError) as error:
            self._override = None
            raise ValueError(f"action must be an array of numbers, got {actions!r}: {error}") from None

    @torch.inference_mode(False)
    def step(self, actions: np.ndarray, envs: Sequence[int] | None = None) -> Outcome:
        """Play a round in ``envs`` (all where None) and measure it."""
        override, self._override = self._override, None
        simulation = self.simulation
        view = simulation.view
        before = simulation.qv_loss()
        byzantine, rejected = simulation.byzantine_rows.clone(), view.rejected
        credits = self.actions.decode(actions, simulation.num_envs, before.device)
        credits = self.actions.accepted(credits, rejected)
        remembered: Tensor | None = credits
        if override is None or np.any(actions):
            update = combine(credits, view.gradients)
        else:
            update, given = override
            credits = torch.full_like(credits, torch.nan) if given is None else given
            remembered = self._with_last_credits(given)
        simulation.apply(update, remembered, envs)
        after = simulation.qv_loss()
        diverged = simulation.diverged | exploded(after, simulation.initial_loss)
        rewards = relative_drop(before, after).masked_fill(diverged, WORST_REWARD)
        terminated = diverged.cpu().numpy().copy()
        round = simulation.server.round.cpu().numpy()
        truncated = (round >= self.rounds) & ~terminated
        evaluated = terminated | truncated
        if self._evaluate_every is not None:
            evaluated |= round % self._evaluate_every == 0
        info = {
            "credits": credits,
            "qv_loss": after.double(),
            "byzantine": byzantine,
            "rejected": rejected,
            "update_norm": torch.linalg.vector_norm(update.double(), dim=1),
            "diverged": diverged,
        }
        return Outcome(
            rewards=rewards.double().cpu().numpy(),
            terminated=terminated,
            truncated=truncated,
            info={name: _fresh(value) for name, value in info.items()},
            metrics=self.metrics() if evaluated.any() else {},
            evaluated=evaluated,
        )

    def _with_last_credits(self, credits: Tensor | None) -> Tensor | None:
        """Credits [E, rows] in which environments without any, NaN, keep those that they had last."""
        last = self.simulation.previous_credits
        if not isinstance(credits, Tensor) or credits.shape != last.shape:
            return credits  # the simulation says what is wrong with it
        return torch.where(credits.isnan().all(1, keepdim=True), last, credits)

    def metrics(self) -> dict[str, np.ndarray]:
        """Test metrics of all environments; for evaluation only."""
        return {name: _fresh(value.double()) for name, value in self.simulation.evaluate().items()}

    def reset_info(self) -> dict[str, np.ndarray]:
        """The `info` of a reset: nothing has been credited or applied yet."""
        simulation = self.simulation
        info = {
            "credits": simulation.previous_credits,
            "qv_loss": simulation.qv_loss().double(),
            "byzantine": simulation.byzantine_rows,
            "rejected": simulation.view.rejected,
            "update_norm": torch.zeros(simulation.num_envs, dtype=torch.float64),
            "diverged": simulation.diverged,
        }
        return {name: _fresh(value) for name, value in info.items()}


def pick(info: Mapping[str, np.ndarray], env: int) -> dict[str, Any]:
    """The `info` of one environment: arrays of its own, and Python numbers."""
    return {name: value[env].copy() if value.ndim > 1 else value[env].item() for name, value in info.items()}


def _fresh(values: Tensor) -> np.ndarray:
    return np.array(values.detach().cpu().numpy())
