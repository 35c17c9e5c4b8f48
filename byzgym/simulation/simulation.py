"""The parameter server and its workers, batched over environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzgym.aggregation import Decision, Mean, RulePerEnvironment, ServerView
from byzgym.ambient import episode_seed, keep_freed_memory, shielded
from byzgym.attacks import AttackContext
from byzgym.memory import Memory
from byzgym.simulation import metrics, snapshots
from byzgym.simulation.blocks import BlockRule
from byzgym.simulation.checks import checked_environments, checked_seeds
from byzgym.simulation.config import (
    Setup,
    SimulationConfig,
    byzantine_bounds,
    config_from,
    named_attacks,
    resolve,
)
from byzgym.simulation.gradients import engine_for
from byzgym.simulation.samples import Samples
from byzgym.simulation.server import Server
from byzgym.simulation.views import Views
from byzgym.simulation.workers import Workers
from byzgym.validation import check_int, check_tensor

ENVIRONMENT_ARGUMENTS = frozenset(
    {
        *("observation", "pool_size", "pooling", "reward_form"),
        *("action", "rules", "evaluate_every", "render_mode"),
    }
)
"""Arguments of the environment that mean nothing to the simulation."""


class Simulation:
    """n workers, some of them Byzantine, and the server that aggregates what they submit.

    E independent environments run side by side in batched tensors. A round: read `view` (or `gradients`),
    decide, call `apply`; the next submissions are there when it returns. Every environment has its own random
    generator: environment i of a batch equals a simulation of one with this seed (on CPU, but for rounding).

    Example:
        >>> from byzgym import agents
        >>> simulation = Simulation.make(num_envs=2, seed=0, task="synthetic", attack="ipm", rounds=10)
        >>> policy = agents.build("krum", simulation)
        >>> for _ in range(10):
        ...     simulation.apply(policy.decide(simulation.view))
        >>> simulation.evaluate()["accuracy"].shape
        torch.Size([2])
    """

    def __init__(self, setup: Setup, num_envs: int) -> None:
        """Not called by users; see `make`."""
        keep_freed_memory()
        generator = torch.Generator(setup.device).manual_seed(0)  # what it draws is thrown away
        module = setup.make_module(generator=generator)
        self.setup, self.num_envs = setup, num_envs
        x, y = setup.task.train
        self.largest_input = float(x.max())
        """The largest number in the training data: full intensity, of which triggers consist."""
        self.engine = engine_for(module.to(setup.device, torch.float32), x[:2], y[:2], setup.one_by_one)
        self.workers = Workers(setup, self.engine, num_envs)
        self.server = Server(setup, num_envs, self.engine.num_parameters)
        self.samples = Samples(setup, self.engine, self.workers.generators)
        self.quasi_validation, self.reward_set = self.samples.quasi_validation, self.samples.reward_set
        self.views = Views(setup, self.server, self.workers, self.quasi_validation)
        self.memory, self._blocks = self.views.memory, self.views.blocks
        self.rules: list[Callable[[Tensor], Tensor]] = [Mean()]
        self._rule_numbers = torch.zeros(num_envs, dtype=torch.int64, device=setup.device)  # [E]
        self.initial_loss = torch.zeros(num_envs, device=setup.device)
        """The QV loss with which each episode began, shape [E]."""
        self._view: ServerView | None = None
        self._reward_loss: tuple[ServerView, Tensor] | None = None  # [E], at the parameters in the view
        self._in_round = False

    @classmethod
    @shielded
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
            seed: Environment i gets the seed ``seed + i``, as in Gymnasium; fresh entropy where None.
            per_environment: One mapping per environment that overrides ``attack`` or ``num_byzantine``.
            arguments: The fields of `SimulationConfig`. What only concerns the environment's observations,
                actions and rendering has no effect here.

        Raises:
            ValueError: If a value is not allowed; the message names argument, value and what is allowed.
            TypeError: If an argument or a parameter does not exist.
        """
        check_int("num_envs", num_envs, low=1)
        seed = None if seed is None else check_int("seed (unless None)", seed, low=0)
        given = {key: value for key, value in arguments.items() if key not in ENVIRONMENT_ARGUMENTS}
        setup = resolve(config_from(SimulationConfig, given))
        simulation = cls(setup, num_envs)
        if per_environment is not None:
            simulation.workers.override(per_environment)
        seeds = [None if seed is None else seed + i for i in range(num_envs)]
        simulation.reset([episode_seed(np.random.default_rng(seed)) for seed in seeds])
        return simulation

    @property
    def num_rows(self) -> int:
        """Rows that the server receives per environment: workers, or secure groups of them."""
        return self.setup.num_rows

    @property
    def most_byzantine(self) -> int:
        """The largest number f of Byzantine workers that an environment may have, as rules are told.

        Of a cohort, as many as may be expected in it, rounded up.
        """
        most, setup = max(high for _, high in self.workers.num_byzantine), self.setup
        return -(-most * setup.cohort_size // setup.num_workers)

    @property
    def num_parameters(self) -> int:
        """The model's number of parameters d."""
        return self.engine.num_parameters

    @property
    @shielded
    def view(self) -> ServerView:
        """What the server knows in this round; valid until the next `apply` or `reset`.

        With several servers it is what each of them knows of its block of the parameters: E S independent
        runs, see `byzgym.simulation.blocks.Blocks`.

        Raises:
            RuntimeError: If an attack, a role function, a partition or a QV source failed in the last round.
        """
        self._check_whole()
        if self._view is None:
            self._view = self.views.make()
        return self._view

    @property
    def previous_credits(self) -> Tensor:
        """The credits of the last round that had any, shape [E, rows] (with several servers [E S, rows]);
        uniform at first."""
        return self.views.previous_credits

    @property
    def rejected(self) -> Tensor:
        """Which of the received rows were rejected, bool, shape [E, rows], or [E S, rows]."""
        return self.views.rejected

    @property
    def gradients(self) -> Tensor:
        """The submissions as received, shape [E, n, d]; what a server has rejected is zero."""
        gradients = self.view.gradients
        return gradients if self._blocks is None else self._blocks.join(gradients)

    @property
    def rule(self) -> Callable[[Tensor], Tensor]:
        """The server's rule (the mean where it uses none), shown to attacks that declare this knowledge."""
        rules = self.rules
        if self._blocks is not None:
            rules = [BlockRule(rule, self._blocks) for rule in rules]
        return rules[0] if len(rules) == 1 else RulePerEnvironment(rules, self._rule_numbers)

    @rule.setter
    def rule(self, rule: Callable[[Tensor], Tensor]) -> None:
        self.use_rules([rule])

    @shielded
    def use_rules(self, rules: Sequence[Callable[[Tensor], Tensor]], numbers: Tensor | None = None) -> None:
        """Say that environment e uses ``rules[numbers[e]]``, and the first where None and after a reset."""
        self.rules = list(rules)
        self._rule_numbers = torch.zeros_like(self._rule_numbers) if numbers is None else numbers.clone()

    @property
    def byzantine(self) -> Tensor:
        """Which workers of this round are Byzantine, bool, shape [E, n]. For evaluation only.

        None is under a fault in transmission, whatever `num_byzantine` says: rules are told that number, and
        that is all.
        """
        if not self._may_be_faulty:
            return self.workers.byzantine
        return self.workers.byzantine & ~self.faulty[:, None]

    @property
    def faulty(self) -> Tensor:
        """In which environments the attack is a fault in transmission, bool, shape [E]. For evaluation only.

        Such an attack (its `scope` is "transmission") corrupts what any worker sends.
        """
        if not self._may_be_faulty:
            return torch.zeros_like(self.server.diverged)
        faults = torch.tensor([attack.is_fault for attack in self.workers.attacks], device=self.setup.device)
        return faults[self.workers.attack_of]

    @property
    def _may_be_faulty(self) -> bool:
        return any(attack.is_fault for attack in self.workers.attacks)

    @property
    def sent_mean(self) -> Tensor:
        """The mean of what this round's workers sent before a fault in transmission. For references only.

        It leaves out what is not finite, and is meaningless where the environment is not `faulty`. Its shape
        is that of ``view.theta``.
        """
        mean = self.workers.sent_mean
        return mean if self._blocks is None else self._blocks.split(mean)

    @property
    def byzantine_rows(self) -> Tensor:
        """Which received rows have a Byzantine worker in them, bool, shape [E, rows]. For evaluation only."""
        if self.setup.secure_group_size == 1:
            return self.byzantine
        return self.byzantine.unflatten(1, (-1, self.setup.secure_group_size)).any(2)

    @property
    def attack_names(self) -> list[str]:
        """The attack of each environment's episode. For evaluation only."""
        return [self.workers.attacks[number].name for number in self.workers.attack_of.tolist()]

    @shielded
    def reset(
        self,
        seeds: Sequence[int],
        envs: Sequence[int] | None = None,
        *,
        attack: Any = None,
        num_byzantine: int | Sequence[int] | None = None,
    ) -> None:
        """Begin new episodes.

        Args:
            seeds: For each of the environments the seed of its own generator, from 0 to 2**63 - 1. (`make`
                draws this number from a NumPy generator with the seed that it is given.)
            envs: Which environments; all where None.
            attack: The attack of these episodes, or a list to draw from; what `make` was told where None.
            num_byzantine: The f of these episodes, or its bounds; what `make` was told where None.

        Raises:
            ValueError: If a value is not allowed, or there is not one seed for each environment.
        """
        chosen = checked_environments(envs, self.num_envs)
        seeds = checked_seeds(seeds, chosen)
        bounds = None if num_byzantine is None else byzantine_bounds(num_byzantine, self.setup.num_workers)
        choices = None if attack is None else self.workers.numbers_of(named_attacks(attack))
        whole = len(chosen) == self.num_envs
        if not whole:
            self._check_whole()
        self._in_round = True
        for env, seed in zip(chosen, seeds, strict=True):
            generator = self.workers.generators[env].manual_seed(seed)
            self.workers.reset(env, bounds, choices)
            self.server.reset(env, self._initial_theta(generator))
            self._rule_numbers[env] = 0
        self.samples.reset(chosen)
        self.views.reset(chosen, seeds)
        with torch.no_grad():
            self.initial_loss[chosen] = self.quasi_validation.loss_and_gradient(self.server.theta)[0][chosen]
        self._submit(None if whole else chosen)

    @shielded
    def apply(self, decision: Decision | Tensor, envs: Sequence[int] | None = None) -> None:
        """One server step, then the next submissions.

        Args:
            decision: A policy's `Decision`, or an update [E, d] alone. Where the parameters would not stay
                finite, the environment keeps them and is marked in `diverged`. With several servers an update
                may also be in blocks, as they are in `view`.
            envs: Which environments take part; all where None. The others stay as they are.

        Raises:
            TypeError: If the update is no dense tensor of real numbers.
            ValueError: If a shape does not fit, or an environment does not exist.
        """
        self._check_whole()
        chosen = None if envs is None else sorted(checked_environments(envs, self.num_envs))
        if not isinstance(decision, Decision):
            decision = Decision(decision)
        update, credits = decision.update, decision.credits
        if self._blocks is not None and update.shape == self.view.theta.shape:
            update = self._blocks.join(update)
        check_tensor("update", update, *self.server.theta.shape)
        active = None
        if chosen is not None:
            active = torch.zeros_like(self.server.diverged)
            active[chosen] = True
        if credits is not None:
            check_tensor("credits", credits, *self.previous_credits.shape)
            self.views.remember(credits, active)
        self.server.step(update.detach().to(self.server.theta, copy=True), active)
        self._submit(chosen)
        if self.setup.qv_period is not None:
            due = self.server.round % self.setup.qv_period == 0
            # The submissions are there already: an attack that knows QV samples knows the old ones.
            self._in_round = True  # a QV source may be anybody's code, and fail
            self.samples.redraw(due if active is None else due & active, self.server.theta)
            self._in_round = False

    @property
    def diverged(self) -> Tensor:
        """Environments in which an update was refused because it was not finite, bool, shape [E]."""
        return self.server.diverged

    def qv_loss(self) -> Tensor:
        """The loss on the quasi-validation set at the current parameters, shape [E], always finite."""
        return self.view.qv_value[:: self.setup.num_servers]

    def qv_loss_of_step(self) -> Tensor:
        """The QV loss at the current parameters on the samples with which the last step was decided, [E].

        It differs from `qv_loss` only in the rounds after which ``qv_period`` has new samples drawn.
        """
        return self.samples.loss_of_step(self.qv_loss())

    @shielded
    def reward_loss(self) -> Tensor:
        """The loss from which the reward is computed, at the current parameters, shape [E], always finite.

        It is the QV loss, or the loss on held-out samples that are set aside for it. Not for agents.
        """
        if self.reward_set is None:
            return self.qv_loss()
        if self._reward_loss is None or self._reward_loss[0] is not self.view:
            self._reward_loss = self.view, self.reward_set.loss(self.server.theta)
        return self._reward_loss[1]

    def reward_loss_of_step(self) -> Tensor:
        """`reward_loss`, on the samples with which the last step was decided, [E]."""
        return self.qv_loss_of_step() if self.reward_set is None else self.reward_loss()

    @shielded
    def evaluate(self) -> dict[str, Tensor]:
        """Test metrics: "accuracy" and "top3_accuracy" (0 to 1) and "test_loss", each of shape [E].

        If an environment's attack is a backdoor (`byzgym.attacks.Triggered`), also "attack_success_rate" (0
        to 1): the share of the test samples without the target label that get it with the trigger. It is NaN
        where the attack is none.
        """
        theta, test = self.server.theta, self.setup.task.test
        measured = metrics.test_metrics(self.engine, theta, *test)
        attacks, attack_of = self.workers.attacks, self.workers.attack_of
        rates = metrics.success_rates(self.engine, theta, *test, attacks, attack_of, self.largest_input)
        return measured if rates.isnan().all() else measured | {"attack_success_rate": rates}

    def parameters(self, env: int = 0) -> dict[str, Tensor]:
        """A copy of an environment's parameters by name, as the model's ``load_state_dict`` takes them."""
        module = self.setup.make_module(generator=torch.Generator(self.setup.device).manual_seed(0))
        torch.nn.utils.vector_to_parameters(self.server.theta[env].cpu(), module.parameters())
        return {name: value.detach().clone() for name, value in module.state_dict().items()}

    @shielded
    def snapshot(self) -> dict[str, Any]:
        """A copy of everything that changes, for `restore`."""
        return snapshots.take(*self._parts())

    @shielded
    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go back to a snapshot of this simulation; what follows repeats what followed it then.

        Raises:
            ValueError: If the snapshot is invalid or of another simulation; nothing changes then.
        """
        snapshots.put_back(snapshot, *self._parts())
        self._view, self._in_round = None, False

    def _parts(self) -> tuple[dict[str, Any], list[torch.Generator], list[Memory], list[str]]:
        """What snapshots are made of."""
        workers = self.workers
        owners = {"simulation": self, "server": self.server, "workers": workers}
        owners |= {"batches": workers.batches, "samples": self.samples, "views": self.views}
        owners["quasi_validation"] = self.quasi_validation
        if self.reward_set is not None:
            owners["reward_set"] = self.reward_set
        names = [attack.name for attack in workers.attacks]
        return owners, workers.generators, [self.memory, *workers.memories], names

    def _check_whole(self) -> None:
        if self._in_round:
            raise RuntimeError(
                "the last round failed half way, in an attack, a role function, a partition or a QV source; "
                "reset all environments first"
            )

    def _initial_theta(self, generator: torch.Generator) -> Tensor:
        module = self.setup.make_module(generator=generator)
        parameters = [parameter.detach().flatten() for parameter in module.parameters()]
        return torch.cat(parameters).to(self.setup.device, torch.float32)

    def _submit(self, envs: list[int] | None) -> None:
        """Let the workers of some environments (all where None) submit, and the server receive."""
        self._view = None
        if envs is not None and not envs:
            return
        index = None if envs is None else torch.tensor(envs, device=self.setup.device)
        chosen = slice(None) if index is None else index
        rule = self.rule
        generators = self.workers.generators
        context = AttackContext(
            round=self.server.round[chosen],
            generators=generators if envs is None else [generators[e] for e in envs],
            learning_rate=self.server.learning_rate[chosen],
            previous_update=self.server.previous_update[chosen],
            num_classes=self.setup.task.num_classes,
            largest_input=self.largest_input,
            rule=rule.of(envs) if envs is not None and isinstance(rule, RulePerEnvironment) else rule,
            qv=(self.quasi_validation.x[chosen], self.quasi_validation.y[chosen]),
        )
        self._in_round = True  # an attack or a QV source may be anybody's code, and fail
        submitting = range(self.num_envs) if envs is None else envs
        knowing = self.workers.knowing("qv_distribution", submitting)
        context.qv_distribution = self.samples.for_attackers(submitting, knowing)
        self.workers.submit(index, self.server.theta[chosen], context)
        self.views.receive(envs)
        self._in_round = False
