"""The parameter server and its workers, batched over environments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzgym.aggregation import Mean, RuleOfEach, ServerView
from byzgym.ambient import episode_seed, keep_freed_memory, without_autocast
from byzgym.attacks import AttackContext
from byzgym.simulation import snapshots
from byzgym.simulation.given import (
    check_credits,
    check_tensor,
    checked_seeds,
    environment_numbers,
    own_copy,
)
from byzgym.simulation.gradients import engine_for
from byzgym.simulation.metrics import test_metrics
from byzgym.simulation.quasi_validation import QuasiValidation, draw_samples
from byzgym.simulation.server import Server, receive
from byzgym.simulation.settings import Settings, merge, resolve
from byzgym.simulation.workers import Workers
from byzgym.validation import check_int

ENVIRONMENT_ARGUMENTS = frozenset({"observation", "pool_size", "action", "evaluate_every", "render_mode"})
"""Arguments of the environment that mean nothing to the simulation."""
KNOWN_ARGUMENTS = (*inspect.signature(resolve).parameters, *sorted(ENVIRONMENT_ARGUMENTS))


class Simulation:
    """n workers, some of them Byzantine, and the server that aggregates what they submit.

    E independent environments run side by side in batched tensors. A round: read `gradients` or `view`,
    decide on an update [E, d], call `apply`; the next submissions are there when it returns.

    Build one with `make`. Every environment has its own random generator; environment i of a batch equals
    a simulation of one environment with the same seed (on CPU, up to rounding).
    """

    def __init__(
        self,
        settings: Settings,
        num_envs: int,
        num_byzantine: Sequence[tuple[int, int]],
        attack_choices: Sequence[Sequence[int]],
    ) -> None:
        keep_freed_memory()
        generator = torch.Generator(settings.device).manual_seed(0)  # what it draws is thrown away
        module = settings.make_module(generator=generator)
        self.settings = settings
        self.num_envs = num_envs
        x, y = settings.task.train
        self.engine = engine_for(module.to(settings.device, torch.float32), x[:2], y[:2])
        self.workers = Workers(settings, self.engine, num_byzantine, attack_choices)
        self.server = Server(settings, num_envs, self.engine.num_parameters)
        x, y = draw_samples(self.settings, generator)  # for shapes, and to fail early
        self.quasi_validation = QuasiValidation(self.engine, num_envs, x, y)
        self.rules: list[Callable[[Tensor], Tensor]] = [Mean()]
        """Those that the environments use; see `use_rules`."""
        self._rule_numbers = torch.zeros(num_envs, dtype=torch.int64, device=settings.device)  # [E]
        self._failed = False
        self.initial_loss = torch.zeros(num_envs, device=settings.device)
        """The QV loss with which each episode began, shape [E]."""
        self.previous_credits = torch.zeros(num_envs, self.num_rows, device=settings.device)
        self.rejected = torch.zeros(num_envs, self.num_rows, dtype=torch.bool, device=settings.device)
        self._view: ServerView | None = None

    @classmethod
    @without_autocast
    @torch.inference_mode(False)  # what is kept must outlive a caller's inference mode
    def make(
        cls,
        num_envs: int = 1,
        seed: int | None = None,
        per_environment: Sequence[Mapping[str, Any]] | None = None,
        **arguments: Any,
    ) -> Simulation:
        """Build a simulation and begin its first episodes.

        Args:
            num_envs: E, the number of environments.
            seed: Environment i gets the seed ``seed + i``, as `gymnasium.vector.VectorEnv.reset` does.
                Fresh entropy where None.
            per_environment: One mapping per environment that overrides ``attack`` or ``num_byzantine``.
            arguments: The keyword arguments of the environment (see `settings.resolve`); those that only
                concern observations, actions and rendering have no effect here.

        Raises:
            ValueError: If a value is not allowed; the message names argument, value and what is allowed.
            TypeError: If an argument does not exist.
        """
        num_envs = check_int("num_envs", num_envs, low=1)
        seed = None if seed is None else check_int("seed (unless None)", seed, low=0)
        arguments = {k: v for k, v in arguments.items() if k not in ENVIRONMENT_ARGUMENTS}
        unknown = sorted(set(arguments) - set(KNOWN_ARGUMENTS))
        if unknown:
            raise TypeError(f"unknown argument {unknown[0]!r}; known: {', '.join(KNOWN_ARGUMENTS)}")
        overrides: Any = [{}] * num_envs if per_environment is None else per_environment
        if (
            not isinstance(overrides, Sequence)
            or len(overrides) != num_envs
            or not all(isinstance(entry, Mapping) for entry in overrides)
        ):
            raise ValueError(
                f"per_environment must be a list of num_envs={num_envs} mappings, got {per_environment!r}"
            )
        base = resolve(**arguments)
        settings, bounds, choices = merge(base, overrides)
        simulation = cls(settings, num_envs, bounds, choices)
        seeds = [None if seed is None else seed + i for i in range(num_envs)]
        simulation.reset([episode_seed(np.random.default_rng(seed)) for seed in seeds])
        return simulation

    @property
    def num_rows(self) -> int:
        """Rows that the server receives per environment: workers, or secure groups of them."""
        return self.settings.num_workers // self.settings.secure_group_size

    @property
    def most_byzantine(self) -> int:
        """The largest number f of Byzantine workers that an environment may have."""
        return max(high for _, high in self.workers.num_byzantine)

    @property
    def num_parameters(self) -> int:
        """The model's number of parameters d."""
        return self.engine.num_parameters

    @property
    def view(self) -> ServerView:
        """What the server knows in this round; valid until the next `apply` or `reset`."""
        self._check_sound()
        if self._view is None:
            self._view = self._new_view()
        return self._view

    @without_autocast
    @torch.inference_mode(False)
    def _new_view(self) -> ServerView:
        rows, rejected = receive(self.workers.submissions, self.settings.secure_group_size)
        # Rejected rows are overwritten: of those met before, only this is left to tell.
        self.rejected = self.rejected | rejected
        return ServerView(
            gradients=rows,
            theta=self.server.theta,
            learning_rate=self.server.learning_rate,
            qv_loss=self.quasi_validation.loss,
            round=self.server.round,
            rejected=self.rejected,
            previous_update=self.server.previous_update,
            previous_credits=self.previous_credits,
            qv_loss_and_gradient=self.quasi_validation.loss_and_gradient,
        )

    @property
    def gradients(self) -> Tensor:
        """The submissions as received, shape [E, n, d]; rejected rows are zero."""
        return self.view.gradients

    @property
    def rule(self) -> Callable[[Tensor], Tensor]:
        """The server's rule (the mean where it uses none), shown to attacks that declare this knowledge.

        A `RuleOfEach` where `use_rules` has been told several.
        """
        return self.rules[0] if len(self.rules) == 1 else RuleOfEach(self.rules, self._rule_numbers)

    @rule.setter
    def rule(self, rule: Callable[[Tensor], Tensor]) -> None:
        self.use_rules([rule])

    def use_rules(self, rules: Sequence[Callable[[Tensor], Tensor]], numbers: Tensor | None = None) -> None:
        """Say that environment e uses ``rules[numbers[e]]``, and the first of them after a reset.

        Args:
            rules: Callables ``gradients -> vector``.
            numbers: int64, shape [E]; all zero where None.

        Raises:
            ValueError: If there are no rules, or the numbers are not one of a rule for each environment.
        """
        given = torch.zeros_like(self._rule_numbers) if numbers is None else numbers
        if (
            not isinstance(given, Tensor)
            or given.shape != (self.num_envs,)
            or given.dtype != torch.int64
            or not bool(((given >= 0) & (given < len(rules))).all())
        ):
            raise ValueError(
                f"numbers must be an int64 tensor of {self.num_envs} of the numbers of {len(rules)} rules, "
                f"got {given!r}"
            )
        self.rules, self._rule_numbers = list(rules), own_copy(given, self._rule_numbers)

    @property
    def byzantine(self) -> Tensor:
        """Which workers are Byzantine in this round, bool, shape [E, n]. For evaluation only."""
        return self.workers.byzantine

    @property
    def byzantine_rows(self) -> Tensor:
        """Which received rows have a Byzantine worker in them, bool, shape [E, rows]. For evaluation only."""
        if self.settings.secure_group_size == 1:
            return self.byzantine
        return self.byzantine.unflatten(1, (-1, self.settings.secure_group_size)).any(2)

    @property
    def attack_names(self) -> list[str]:
        """The attack of each environment's episode. For evaluation only."""
        return [self.settings.attack_names[number] for number in self.workers.attack_of.tolist()]

    @without_autocast
    @torch.inference_mode(False)
    def reset(self, seeds: Sequence[int], envs: Sequence[int] | None = None) -> None:
        """Begin new episodes.

        Args:
            seeds: For each of the environments the seed of its own generator, from 0 to 2**63 - 1. (`make`,
                like Gymnasium, draws this number from a NumPy generator with the seed that it is given.)
            envs: Which environments; all where None.

        Raises:
            ValueError: If there is not one seed for each of the environments, or one does not exist.
        """
        chosen = environment_numbers(envs, self.num_envs)
        seeds = checked_seeds(seeds, chosen)
        whole = set(chosen) == set(range(self.num_envs))
        sound = whole or not self._failed
        self._failed = True  # a partition or a QV source may be anybody's code, too
        for env, seed in zip(chosen, seeds, strict=True):
            generator = self.workers.generators[env].manual_seed(seed)
            self.workers.reset(env)
            self.server.reset(env, self._initial_theta(generator))
            x, y = draw_samples(self.settings, generator)
            self.quasi_validation.assign(env, x, y)
            self.previous_credits[env] = 1 / self.num_rows
            self._rule_numbers[env] = 0
        with torch.no_grad():
            self.initial_loss[chosen] = self.quasi_validation.loss_and_gradient(self.server.theta)[0][chosen]
        self._failed = not sound
        self._submit(None if whole else chosen)

    @without_autocast
    @torch.inference_mode(False)
    def apply(self, update: Tensor, credits: Tensor | None = None, envs: Sequence[int] | None = None) -> None:
        """One server step, then the next submissions.

        Args:
            update: The aggregate, shape [E, d]. Where the parameters would not stay finite, the environment
                keeps them and is marked in `diverged`.
            credits: The credits that made it, shape [E, rows], not negative, with sums of at most 1; only
                remembered for the next `view`.
            envs: Which environments take part; all where None. The others stay as they are.

        Raises:
            TypeError: If ``update`` or ``credits`` is not a tensor.
            ValueError: If one of them has another shape, ``credits`` are none, or an environment does not
                exist.
        """
        self._check_sound()
        chosen = None if envs is None else environment_numbers(envs, self.num_envs)
        theta = self.server.theta
        check_tensor("update", update, theta.shape)
        if credits is not None:
            check_tensor("credits", credits, self.previous_credits.shape)
            check_credits(credits)
        active = None
        if chosen is not None:
            active = torch.zeros_like(self.server.diverged)
            active[chosen] = True
        self.server.step(own_copy(update, theta), active)
        if credits is not None:
            new = own_copy(credits, self.previous_credits)
            kept = self.previous_credits
            self.previous_credits = new if active is None else torch.where(active[:, None], new, kept)
        self._submit(chosen)

    @property
    def diverged(self) -> Tensor:
        """Environments in which an update was refused because it was not finite, bool, shape [E]."""
        return self.server.diverged

    def qv_loss(self) -> Tensor:
        """The loss on the quasi-validation set at the current parameters, shape [E], always finite."""
        return self.view.qv_value

    @without_autocast
    def evaluate(self) -> dict[str, Tensor]:
        """Test metrics: "accuracy" and "top3_accuracy" (0 to 1) and "test_loss", each of shape [E]."""
        return test_metrics(self.engine, self.server.theta, *self.settings.task.test)

    @torch.inference_mode(False)
    def snapshot(self) -> dict[str, Any]:
        """A copy of everything that changes, for `restore`."""
        return snapshots.take(self._owners(), self.workers.generators)

    @torch.inference_mode(False)
    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go back to a snapshot of this simulation; what follows repeats what followed it then.

        Raises:
            ValueError: If the snapshot is none, or of a simulation of another shape; nothing changes then.
        """
        snapshots.check(snapshot, self._owners(), self.workers.generators)
        if int(snapshot["state"]["workers"]["attack_of"].max()) >= len(self.settings.attacks):
            raise ValueError("snapshot must be of a simulation like this one, got one with more attacks")
        if int(snapshot["state"]["batches"]["shares"].max()) >= len(self.settings.task.train[1]):
            raise ValueError("snapshot must be of a simulation like this one, got one with more samples")
        if int(snapshot["state"]["simulation"]["_rule_numbers"].max()) >= len(self.rules) > 1:
            raise ValueError("snapshot must be of a simulation like this one, got one with more rules")
        snapshots.put_back(snapshot, self._owners(), self.workers.generators)
        self.workers.forget_groups()
        self._view, self._failed = None, False

    def _check_sound(self) -> None:
        if self._failed:
            raise RuntimeError(
                "the last round or reset failed half way, in an attack, a role function, a partition or a QV "
                "source; reset all environments first"
            )

    def _owners(self) -> dict[str, Any]:
        return {
            "simulation": self,
            "server": self.server,
            "workers": self.workers,
            "batches": self.workers.batches,
            "quasi_validation": self.quasi_validation,
        }

    def _initial_theta(self, generator: torch.Generator) -> Tensor:
        module = self.settings.make_module(generator=generator)
        parameters = [parameter.detach().flatten() for parameter in module.parameters()]
        return torch.cat(parameters).to(self.settings.device, torch.float32)

    def _submit(self, envs: list[int] | None) -> None:
        self._view = None
        if envs is not None and not envs:
            return
        index = None if envs is None else torch.tensor(envs, device=self.settings.device)
        chosen = slice(None) if index is None else index
        rule = self.rule
        generators = self.workers.generators
        context = AttackContext(
            round=self.server.round[chosen],
            generators=generators if envs is None else [generators[e] for e in envs],
            learning_rate=self.server.learning_rate[chosen],
            previous_update=self.server.previous_update[chosen],
            num_classes=self.settings.task.num_classes,
            rule=rule.of(envs) if envs is not None and isinstance(rule, RuleOfEach) else rule,
            qv=(self.quasi_validation.x[chosen], self.quasi_validation.y[chosen]),
        )
        # An attack may be anybody's code, and where it fails the round is half played, until all are reset.
        sound = envs is None or not self._failed
        self._failed = True
        self.workers.submit(index, self.server.theta[chosen], context)
        self._failed = not sound
        self.rejected = self.rejected.clone()  # views keep the old one
        self.rejected[chosen] = False
