"""The native vector environment: one batched simulation instead of E single ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from byzgym.envs.actions import as_array
from byzgym.envs.core import Core, Outcome, Shell, row
from byzgym.envs.rendering import VectorRenderer
from byzgym.validation import check_int


class ByzantineAggregationVectorEnv(Shell, VectorEnv[Any, Any, np.ndarray]):
    """`ByzantineAggregationEnv` for many environments at once.

    On CPU, environment i equals the single environment seeded with ``seed + i``, up to rounding.

    Args:
        num_envs: E.
        autoreset_mode: "NextStep" (Gymnasium's default), "SameStep" (what stable-baselines3 needs) or
            "Disabled" (reset with ``options={"reset_mask": mask}``).
        max_episode_steps: Ends episodes earlier than ``rounds``, as `gymnasium.make` with this argument does.
        render_mode: None or "rgb_array".
        per_environment: One mapping per environment that overrides ``attack`` or ``num_byzantine``.
        arguments: As for `ByzantineAggregationEnv`.

    Raises:
        ValueError: If a value is not allowed; the message names argument, value and what is allowed.
        TypeError: If an argument does not exist.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        per_environment: Sequence[Mapping[str, Any]] | None = None,
        **arguments: Any,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        try:
            self._mode = AutoresetMode(autoreset_mode)
        except ValueError:
            allowed = [mode.value for mode in AutoresetMode]
            raise ValueError(f"autoreset_mode must be one of {allowed}, got {autoreset_mode!r}") from None
        self.num_envs = check_int("num_envs", num_envs, low=1)
        self._spec: EnvSpec | None = None
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 10, "autoreset_mode": self._mode}
        self.render_mode = render_mode
        self._renderer = VectorRenderer(num_envs) if render_mode else None
        self._core = Core(num_envs, arguments, per_environment)
        if max_episode_steps is not None:
            limit = check_int("max_episode_steps", max_episode_steps, low=1)
            self._core.rounds = min(self._core.rounds, limit)
        self.single_observation_space = self._core.observations.space
        self.single_action_space = self._core.actions.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._random = [seeding.np_random() for _ in range(num_envs)]  # generators and their seeds
        self._done, self._begun = np.zeros((2, num_envs), dtype=bool)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The random generators of the environments."""
        return tuple(generator for generator, _ in self._random)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seeds with which these began."""
        return tuple(seed for _, seed in self._random)

    @property
    def spec(self) -> EnvSpec | None:
        """The spec of `gymnasium.make_vec`, with the length of an episode."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None:
            spec = copy.copy(spec)
            spec.max_episode_steps = self._core.rounds
        self._spec = spec

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """What happens where an episode has ended."""
        return self._mode

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """An attribute, or the result of a method, once per environment; the method is called once."""
        value = getattr(self, name)
        return (value(*args, **kwargs) if callable(value) else value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute, once per environment; see `call`."""
        return self.call(name)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin new episodes.

        Args:
            seed: Environment i is seeded with ``seed + i``, or with entry i of a list; None goes on with the
                present random state.
            options: ``{"reset_mask": mask}`` with a bool array [E] resets only those environments;
                ``attack`` and ``num_byzantine`` of these episodes only, in place of the environments' own.

        Raises:
            ValueError: If the seeds or the mask do not have one entry per environment.
            TypeError: If ``options`` are no mapping.
        """
        seeds = self._seeds(seed)
        checked = self._core.check_options(options, "reset_mask")
        mask, envs = checked.pop("reset_mask", None), None
        if mask is not None:
            mask = np.asarray(mask)
            if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
                raise ValueError(
                    f"options['reset_mask'] must be a bool array of shape ({self.num_envs},) with a True, "
                    f"got {mask!r}"
                )
            envs = np.flatnonzero(mask).tolist()
        chosen = list(range(self.num_envs)) if envs is None else envs
        # All are made before one takes effect: a seed may be bad.
        fresh = {env: seeding.np_random(seeds[env]) for env in chosen if seeds[env] is not None}
        self._random = [fresh.get(env, old) for env, old in enumerate(self._random)]
        self._core.reset([self.np_random[env] for env in chosen], envs, checked)
        self._done[chosen], self._begun[chosen] = False, True
        present = np.isin(np.arange(self.num_envs), chosen)
        infos: dict[str, Any] = dict(self._core.reset_info())
        infos |= {f"_{name}": present.copy() for name in infos}
        if self._renderer:
            self._renderer.record(infos, present)
        return self._core.observe(), infos

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Play one round everywhere; finished environments are treated as ``autoreset_mode`` says.

        With "NextStep" the step after the end of an episode resets the environment, ignores its action and
        gives reward 0. With "SameStep" the returned observation is that of the new episode, and the last
        one of the old is in ``info["final_obs"]`` and ``info["final_info"]``.

        Raises:
            ValueError: If the actions have the wrong shape or an entry negative, NaN or infinite.
            RuntimeError: If, with "Disabled", a finished environment has not been reset.
            ResetNeeded: If an environment has never been reset.
        """
        if not self._begun.all():
            raise ResetNeeded("call reset() before the first step()")
        began = self._done  # these only reset in this step
        actions, going = as_array(actions), None
        if began.any():
            if self._mode is AutoresetMode.DISABLED:
                raise RuntimeError(
                    "autoreset_mode is 'Disabled': reset the finished environments "
                    f"{np.flatnonzero(began).tolist()} with options={{'reset_mask': mask}} first"
                )
            going = np.flatnonzero(~began).tolist()
            if actions.shape == self.action_space.shape:
                actions = actions.copy()
                actions[began] = self.actions.ignored(int(began.sum()))  # they may be anything
        outcome = self._core.step(actions, going)
        for values in (outcome.rewards, outcome.terminated, outcome.truncated):
            values[began] = 0
        done, final = outcome.terminated | outcome.truncated, {}
        if self._mode is AutoresetMode.SAME_STEP:
            began, final = done, self._final(outcome, done)
        else:
            self._done = done
        if began.any():
            self._begin_anew(outcome, began)
        infos = self._infos(outcome, np.ones(self.num_envs, dtype=bool)) | final
        if self._renderer:
            self._renderer.record(infos, began)
        return self._core.observe(), outcome.rewards, outcome.terminated, outcome.truncated, infos

    def snapshot(self) -> dict[str, Any]:
        """A copy of everything that changes, for `restore`; what is drawn of it is left out."""
        return {
            "simulation": self.simulation.snapshot(),
            "random": copy.deepcopy(self._random),
            "done": self._done.copy(),
            "begun": self._begun.copy(),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> Any:
        """Go back to a snapshot of this environment; what follows repeats what followed it then.

        Returns:
            The observations at that time.

        Raises:
            ValueError: If the snapshot is invalid or of another environment; nothing changes then.
        """
        try:
            simulation, random, done, begun = (
                snapshot[key] for key in ("simulation", "random", "done", "begun")
            )
        except (KeyError, TypeError):
            raise ValueError("snapshot must be what snapshot() returned, got an invalid snapshot") from None
        self.simulation.restore(simulation)
        self._random, self._done, self._begun = copy.deepcopy(random), done.copy(), begun.copy()
        return self._core.observe()

    def render(self) -> tuple[np.ndarray, ...] | None:
        """A frame (height, width, 3) for each environment, as Gymnasium's video wrappers expect.

        They draw the frames as a grid; `byzgym.envs.rendering.grid` makes one picture of them.
        """
        return self._renderer.draw() if self._renderer else None

    def _final(self, outcome: Outcome, done: np.ndarray) -> dict[str, Any]:
        """The last observations and infos of the episodes that are done, for the mode "SameStep"."""
        if not done.any():
            return {}
        last, final_obs = self._core.observe(), np.full(self.num_envs, None, dtype=object)
        for env in np.flatnonzero(done).tolist():
            final_obs[env] = row(last, env)
        infos = self._infos(outcome, done)
        return {"final_obs": final_obs, "_final_obs": done, "final_info": infos, "_final_info": done}

    def _begin_anew(self, outcome: Outcome, began: np.ndarray) -> None:
        """Reset some environments, and put what a reset says of them into the outcome."""
        envs = np.flatnonzero(began).tolist()
        self._core.reset([self.np_random[env] for env in envs], envs)
        fresh = self._core.reset_info()
        for name, values in outcome.info.items():
            values[envs] = fresh[name][envs]
        outcome.evaluated[envs] = False

    def _infos(self, outcome: Outcome, present: np.ndarray) -> dict[str, Any]:
        """Gymnasium's form: beside every entry ``name`` a mask ``_name`` of the environments that have it."""
        infos: dict[str, Any] = {}
        for name, values in (outcome.info | outcome.metrics).items():
            mask = present & outcome.evaluated if name in outcome.metrics else present
            mask = mask & ~np.isnan(values[:, 0]) if name == "credits" else mask
            mask = mask & ~np.isnan(values) if name == "attack_success_rate" else mask
            if mask.any():
                infos[name] = np.full_like(values, None) if values.dtype == object else np.zeros_like(values)
                infos[name][mask] = values[mask]
                infos[f"_{name}"] = mask.copy()
        return infos

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        given: Any = seed.tolist() if isinstance(seed, np.ndarray) else seed
        if given is None or isinstance(given, int | np.integer):
            return [None if given is None else int(given) + env for env in range(self.num_envs)]
        if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != self.num_envs:
            raise ValueError(f"seed must be an integer or {self.num_envs} of them, got {seed!r}")
        return [int(entry) if isinstance(entry, np.integer) else entry for entry in given]
