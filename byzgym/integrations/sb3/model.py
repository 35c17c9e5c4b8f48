"""A model of stable-baselines3 as a policy like any other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from byzgym import specs
from byzgym.agents.adapter import PolicyAgent
from byzgym.agents.base import Agent
from byzgym.aggregation import Decision, ServerView
from byzgym.envs.actions import RuleActions, make_actions
from byzgym.envs.config import AGENT_ARGUMENTS, EnvConfig
from byzgym.envs.observations import make_observations
from byzgym.integrations.sb3 import learners
from byzgym.integrations.sb3.config import NAME, TrainingConfig, file_beside, plain, said_by, spelt
from byzgym.registry import describe
from byzgym.simulation import Simulation
from byzgym.simulation.config import config_from
from byzgym.validation import check_real
from byzgym.wrappers import softmax_credits

_TESTED = frozenset(
    {"attack", "num_byzantine", "roles", "device", "evaluate_every", "reward", "reward_size", "reward_form"}
)
"""Arguments in which an evaluation may differ from the training without a word."""


class ModelPolicy(Agent):
    """A model that stable-baselines3 or sb3-contrib has saved, `model:PATH` wherever a policy has a name.

    It builds the model's observation from the `ServerView`, lets the model choose its action without chance,
    with the recurrent state of each environment if it has one, and decides what the environment would make of
    this action. What it observes and what its actions mean is read from the training.json of `byzgym train`
    beside the model. Observations are not normalised: a model trained in VecNormalize is not played as in its
    training.

    With another number of workers, or another model that is trained, the shapes of observations change. The
    policy network is then built anew for these and given its parameters, which equivariant policies admit.

    Args:
        path: The file, such as "runs/ppo/model.zip".
        algorithm: What has saved it, such as "ppo" or "recurrent_ppo". Where None, training.json says it, or
            it is found out for the usual ones.
        softmax_beta: Inverse temperature of the softmax that makes credits of logits. Where None it is read
            from training.json, or is 10 for a model whose actions may be below 0.
        environment: ``observation``, ``action`` and other arguments of the environment in training, for a
            model without training.json. Where ``observation`` is missing, it is read from the model's space.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no model, one of another algorithm, training.json is damaged, or an argument
            contradicts it.
        TypeError: If an argument of the environment does not exist.
        ImportError: If the algorithm needs sb3-contrib, which is not installed.

    Example:
        >>> import pathlib, tempfile
        >>> from stable_baselines3 import PPO
        >>> from byzgym import agents
        >>> from byzgym.integrations.sb3 import EquivariantPolicy, make_vec_env
        >>> arguments = {"task": "synthetic", "observation": ["norms", "trust"]}
        >>> venv = make_vec_env(2, softmax_beta=10.0, **arguments)
        >>> path = pathlib.Path(tempfile.mkdtemp(), "model.zip")
        >>> PPO(EquivariantPolicy, venv, n_steps=8, batch_size=16).save(path)
        >>> agent = agents.make("model", path=path)
        >>> simulation = Simulation.make(num_envs=3, seed=0, task="synthetic", num_workers=12)
        >>> agent.decide(simulation.view).credits.shape
        torch.Size([3, 12])
    """

    def __init__(
        self,
        path: str | Path,
        algorithm: str | None = None,
        softmax_beta: float | None = None,
        environment: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(path, str | Path):
            raise ValueError(f"path must be the path of a model, got {path!r}")
        self.path = Path(path)
        self._training = TrainingConfig.beside(self.path) if self.path.is_file() else None
        self._source = None if self._training is None else file_beside(self.path)  # for errors
        if self._training is not None:
            given = {"algorithm": algorithm, "softmax_beta": softmax_beta, "environment": environment}
            self._refuse_others(given)
            algorithm = self._training.algorithm
            with said_by(self._source):
                learners.learner_class(algorithm)
        model = learners.read(self.path, algorithm)
        logits = learners.gives_logits(model.action_space)
        self._assumed = logits and softmax_beta is None and self._training is None
        if softmax_beta is not None and not logits:
            raise ValueError(f"softmax_beta is for a model whose actions are logits; those of {path} are not")
        if self._training is not None:
            softmax_beta, environment = self._training.softmax_beta, self._training.environment
            if (softmax_beta is not None) != logits:
                wanted = (
                    "a number for actions that are logits" if logits else "None for actions that are none"
                )
                raise ValueError(f"{self._source}: softmax_beta must be {wanted}, got {softmax_beta}")
        elif logits:
            beta = learners.BETA if softmax_beta is None else softmax_beta
            softmax_beta = check_real("softmax_beta", beta, above=0)
        self._beta = softmax_beta
        self._config: EnvConfig = config_from(EnvConfig, _described(model, environment or {}))
        self.linear = self._config.action in ("credits", "null_slot")
        self._policy: Any = model.policy  # a BasePolicy that has been trained
        self._actions: Any = None
        self._built_for: tuple[int, int] | None = None
        self._starts: np.ndarray | None = None  # [E], whose episode begins in the next round
        self._state: Any = None  # of a recurrent network, a row for each environment

    def decide(self, view: ServerView) -> Decision:
        """See `Policy.decide`.

        Raises:
            ValueError: If the model cannot be used for so many submissions, or for a model of this size.
        """
        shape = view.num_workers, view.theta.shape[1]
        if self._built_for != shape:
            self._fit(*shape)
        starts = (view.round == 0).cpu().numpy()
        if self._starts is None or len(self._starts) != len(starts):
            self._state, starts = None, np.ones_like(starts)
        else:
            starts |= self._starts
        observed = self._observe(view)
        actions, self._state = self._policy_here.predict(observed, self._state, starts, deterministic=True)
        self._starts = np.zeros_like(starts)
        if self._beta is not None:
            actions = softmax_credits(actions, self._beta)
        return self._actions.decode(actions, view)

    def reset(self, envs: Tensor | None = None) -> None:
        """See `Policy.reset`: forget the recurrent state."""
        if envs is None:
            self._starts = self._state = None
        elif self._starts is not None:
            self._starts = self._starts | envs.cpu().numpy()

    @property
    def inner(self) -> tuple[Agent, ...]:
        """See `Agent.inner`: the rules among which the model chooses."""
        if not isinstance(self._actions, RuleActions):
            return ()
        given = self._config.rules or ()
        return tuple(PolicyAgent.of(r, describe(s)) for r, s in zip(self._actions.rules, given, strict=True))

    def differences(self, arguments: Mapping[str, Any]) -> list[str]:
        """See `Agent.differences`; one line if no training.json says how the model was trained."""
        if self._training is None:
            return [self._unknown_training()]
        trained = self._training.environment
        return [
            f"trained with {name} {spelt(trained[name])}, evaluated with {spelt(value)}"
            for name, value in plain(dict(arguments)).items()
            if name in trained and name not in AGENT_ARGUMENTS | _TESTED and value != trained[name]
        ]

    def __repr__(self) -> str:
        return specs.label({"name": "model", specs.BARE: str(self.path)})

    def _unknown_training(self) -> str:
        path = file_beside(self.path)
        why = f"{path} is of another program" if path.is_file() else f"there is no {path}"
        softmax = f", softmax_beta is taken to be {self._beta}" if self._assumed else ""
        return f"how it was trained is not known{softmax}: {why}"

    def _attach(self, simulation: Simulation) -> None:
        super()._attach(simulation)
        self._fit(simulation.num_rows, simulation.num_parameters, simulation)
        self.reset()

    def _refuse_others(self, given: Mapping[str, Any]) -> None:
        """Raise an error if an argument is not what training.json says."""
        assert self._training is not None
        trained = self._training
        held = {"algorithm": trained.algorithm, "softmax_beta": trained.softmax_beta, **trained.environment}
        for name, value in {**given, **plain(dict(given["environment"] or {}))}.items():
            if name != "environment" and value is not None and value != held.get(name):
                raise ValueError(
                    f"{self.path} was trained with {name} {spelt(held.get(name))}, got {spelt(value)}; leave "
                    f"{name} out, since {NAME} says it"
                )

    def _fit(self, num_rows: int, num_parameters: int, simulation: Simulation | None = None) -> None:
        """Build observations, actions and network for submissions [E, num_rows, num_parameters]."""
        config = self._config
        rounds = config.rounds if simulation is None else simulation.setup.rounds
        known: Any = _Unknown(num_rows, num_parameters) if simulation is None else simulation
        with said_by(self._source):
            self._observe = make_observations(config, num_rows, num_parameters, rounds)
            self._actions = make_actions(config.action, config.rules, known)
        offered = self._actions.space
        if self._beta is not None and offered.shape is not None:
            offered = spaces.Box(-1.0, 1.0, offered.shape, np.float32)
        self._policy_here = self._policy_for(self._observe.space, offered)
        self._built_for = num_rows, num_parameters

    def _policy_for(self, observed: spaces.Space[Any], offered: spaces.Space[Any]) -> Any:
        """The trained policy network, for these spaces."""
        trained = self._policy
        here = {"observation_space": observed, "action_space": offered}
        other = {name: space for name, space in here.items() if getattr(trained, name) != space}
        if not other:
            return trained
        name, space = next(iter(other.items()))
        problem = ValueError(
            f"{self.path} was trained with the {name} {getattr(trained, name)}, but here it is {space}"
        )
        if not all(_alike(getattr(trained, name), space) for name, space in other.items()):
            raise problem
        try:
            with learners.unseeded():
                policy = type(trained)(**{**trained._get_constructor_parameters(), **here})
                policy.load_state_dict(trained.state_dict())
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{problem}, and {type(trained).__name__} cannot change its shapes") from error
        policy.set_training_mode(False)
        return policy


class _Unknown:
    """What stands for a simulation where there is none: rules are told the largest f that they accept."""

    def __init__(self, num_rows: int, num_parameters: int) -> None:
        self.num_rows, self.num_parameters, self.most_byzantine = num_rows, num_parameters, num_rows
        self.rules: list[Any] = []

    def use_rules(self, rules: Any, numbers: Any = None) -> None:
        """Nobody is to be told which rule is used."""


def _described(model: BaseAlgorithm, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the environment, and what of them the model's spaces say where they are missing."""
    space = model.observation_space
    found: dict[str, Any] = {"observation": "pooled"}
    parts = {"pooled": space}
    if isinstance(space, spaces.Dict):
        found, parts = {"observation": list(space.spaces)}, dict(space.spaces)
    if "pooled" in parts and len(parts["pooled"].shape or ()) == 2:
        found["pool_size"] = parts["pooled"].shape[1]  # type: ignore[index]
    return {**found, **environment}


def _alike(trained: spaces.Space[Any], here: spaces.Space[Any]) -> bool:
    """Whether spaces differ in their sizes only: the parts mean the same."""
    if isinstance(trained, spaces.Dict) and isinstance(here, spaces.Dict):
        pairs = zip(trained.spaces.items(), here.spaces.items(), strict=False)
        same = trained.spaces.keys() == here.spaces.keys()
        return same and all(_alike(one, other) for (_, one), (_, other) in pairs)
    if isinstance(trained, spaces.Box) and isinstance(here, spaces.Box):
        bounds = [(box.low.min(), box.high.max(), len(box.shape)) for box in (trained, here)]
        return bounds[0] == bounds[1]
    return False
