"""The parameter server and its workers, batched over environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzgym.aggregation import Decision, Mean, RulePerEnvironment, ServerView
from byzgym.ambient import episode_seed, keep_freed_memory, shielded, view_seed
from byzgym.attacks import AttackContext, Triggered
from byzgym.memory import Memory
from byzgym.numerics.finite import is_finite
from byzgym.simulation import snapshots
from byzgym.simulation.blocks import BlockRule, Blocks
from byzgym.simulation.config import (
    Setup,
    SimulationConfig,
    byzantine_bounds,
    config_from,
    named_attacks,
    resolve,
)
from byzgym.simulation.gradients import engine_for
from byzgym.simulation.metrics import success_rates, test_metrics
from byzgym.simulation.quasi_validation import QuasiValidation, draw_samples
from byzgym.simulation.reward_set import RewardSet
from byzgym.simulation.server import Server, receive
from byzgym.simulation.workers import Workers
from byzgym.tasks import Task
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
        self.reward_set: RewardSet | None = None
        if setup.reward_size is not None:
            self.reward_set = RewardSet(setup, self.engine, num_envs, setup.reward_size)
            self.reward_set.draw(0, generator)
        x, y = self._draw_qv(0, generator)  # for shapes, and to fail early
        self.quasi_validation = QuasiValidation(self.engine, num_envs, x, y, setup.task.num_classes)
        self._blocks: Blocks | None = None
        if setup.num_servers > 1:
            check_int("num_servers", setup.num_servers, low=1, high=self.num_parameters)
            self._blocks = Blocks(self.num_parameters, setup.num_servers, setup.device)
        num_runs = num_envs * setup.num_servers
        self.memory = Memory(num_runs, setup.device)
        """What rules keep from round to round."""
        self.rules: list[Callable[[Tensor], Tensor]] = [Mean()]
        self._rule_numbers = torch.zeros(num_envs, dtype=torch.int64, device=setup.device)  # [E]
        self.initial_loss = torch.zeros(num_envs, device=setup.device)
        """The QV loss with which each episode began, shape [E]."""
        self._redrawn = torch.zeros(num_envs, dtype=torch.bool, device=setup.device)  # after the last round
        self._loss_before_redraw = torch.zeros(num_envs, device=setup.device)  # [E], meaningful there
        self.previous_credits = torch.zeros(num_runs, setup.num_rows, device=setup.device)
        """The credits of the last round that had any, shape [E, rows] (with several servers [E S, rows]);
        uniform at first."""
        self._last_credits = torch.zeros(num_runs, setup.num_workers, device=setup.device)  # of each worker
        self._view_seeds = torch.zeros(num_envs, dtype=torch.int64, device=setup.device)
        self.rejected = torch.zeros(num_runs, setup.num_rows, dtype=torch.bool, device=setup.device)
        # What servers receive, [E, rows, d] or in blocks [E S, rows, w], if that is not what workers submit.
        self._received: Tensor | None = None
        if setup.secure_group_size > 1 or self._blocks is not None:
            width = self.num_parameters if self._blocks is None else self._blocks.width
            self._received = torch.zeros(num_runs, setup.num_rows, width, device=setup.device)
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
        overrides = [{}] * num_envs if per_environment is None else per_environment
        if (
            not isinstance(overrides, Sequence)
            or len(overrides) != num_envs
            or not all(isinstance(override, Mapping) for override in overrides)
        ):
            raise ValueError(f"per_environment must be {num_envs} mappings, got {per_environment!r}")
        given = {key: value for key, value in arguments.items() if key not in ENVIRONMENT_ARGUMENTS}
        setup = resolve(config_from(SimulationConfig, given))
        simulation = cls(setup, num_envs)
        for env, override in enumerate(overrides):
            simulation.workers.override(env, override)
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
            known: dict[str, Any] = {
                "theta": self.server.theta,
                "learning_rate": self.server.learning_rate,
                "round": self.server.round,
                "previous_update": self.server.previous_update,
                "qv_loss": self.quasi_validation.loss,
                "qv_loss_and_gradient": self.quasi_validation.loss_and_gradient,
                "qv_per_sample": self.quasi_validation.per_sample,
                "seed": self._view_seeds,
            }
            self._view = ServerView(
                gradients=self.workers.submissions if self._received is None else self._received,
                rejected=self.rejected,
                memory=self.memory,
                **self._who(),
                **(known if self._blocks is None else self._blocks.known(known)),
            )
        return self._view

    def _who(self) -> dict[str, Any]:
        """Last credits; and who has submitted, if not everybody takes part and the server can tell."""
        setup = self.setup
        if setup.cohort_size == setup.num_workers or setup.secure_group_size > 1:
            return {"previous_credits": self.previous_credits}
        cohort = self._cohort()
        credits = self._last_credits.gather(1, cohort)
        return {"workers": cohort, "total_workers": setup.num_workers, "previous_credits": credits}

    def _cohort(self) -> Tensor:
        """The workers of this round, a row for each run of the view."""
        cohort = self.workers.cohort
        return cohort.clone() if self._blocks is None else self._blocks.repeat(cohort)

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
        chosen = self._environments(envs)
        seeds = _checked_seeds(seeds, chosen)
        bounds = None if num_byzantine is None else byzantine_bounds(num_byzantine, self.setup.num_workers)
        choices = None if attack is None else self.workers.numbers_of(named_attacks(attack))
        whole = len(chosen) == self.num_envs
        if not whole:
            self._check_whole()
        self._in_round = True
        samples = []
        for env, seed in zip(chosen, seeds, strict=True):
            generator = self.workers.generators[env].manual_seed(seed)
            self.workers.reset(env, bounds, choices)
            self.server.reset(env, self._initial_theta(generator))
            if self.reward_set is not None:
                self.reward_set.draw(env, generator)
            samples.append(self._draw_qv(env, generator))
            self._view_seeds[env] = view_seed(seed)
            self._rule_numbers[env] = 0
        if chosen:
            self.quasi_validation.assign(chosen, samples)
        self._redrawn[chosen] = False
        runs = self._runs(chosen)
        self.previous_credits[runs] = self._last_credits[runs] = 1 / self.num_rows
        self.memory.reset(runs)
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
        chosen = None if envs is None else sorted(self._environments(envs))
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
            new = credits.detach().to(self.previous_credits, copy=True)
            if active is not None or not is_finite(new):
                given = ~new.isnan()
                if active is not None:
                    given &= (active if self._blocks is None else self._blocks.repeat(active))[:, None]
                new = torch.where(given, new, self.previous_credits)
            self.previous_credits = new
            if self.setup.secure_group_size == 1:
                self._last_credits = self._last_credits.scatter(1, self._cohort(), new)
        self.server.step(update.detach().to(self.server.theta, copy=True), active)
        self._submit(chosen)
        if self.setup.qv_period is not None:
            self._redraw(self.setup.qv_period, active)

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
        return torch.where(self._redrawn, self._loss_before_redraw, self.qv_loss())

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
        test = self.setup.task.test
        metrics = test_metrics(self.engine, self.server.theta, *test)
        attacks = [attack.attack for attack in self.workers.attacks]
        if any(isinstance(attack, Triggered) for attack in attacks):
            rates = success_rates(
                self.engine, self.server.theta, *test, attacks, self.workers.attack_of, self.largest_input
            )
            if not rates.isnan().all():
                metrics["attack_success_rate"] = rates
        return metrics

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
        owners |= {"batches": workers.batches, "quasi_validation": self.quasi_validation}
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

    def _environments(self, envs: Any) -> list[int]:
        if envs is None:
            return list(range(self.num_envs))
        given: Any = envs.tolist() if isinstance(envs, Tensor | np.ndarray) else envs
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise ValueError(f"envs must be a list of numbers of environments, got {envs!r}")
        numbers = [check_int("envs (each)", env, low=0, high=self.num_envs - 1) for env in given]
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"envs must name each environment once, got {numbers}")
        return numbers

    def _draw_qv(self, env: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """QV samples x [q, ...] and labels y [q] for an environment, none of them for its reward."""
        return draw_samples(self.setup, self._seen_by_source(env), generator)

    def _seen_by_source(self, env: int) -> Task:
        """The task without its test set, and without the samples of an environment's reward."""
        task = self.setup.task if self.reward_set is None else self.reward_set.rest(env)
        return task.without_test()

    def _initial_theta(self, generator: torch.Generator) -> Tensor:
        module = self.setup.make_module(generator=generator)
        parameters = [parameter.detach().flatten() for parameter in module.parameters()]
        return torch.cat(parameters).to(self.setup.device, torch.float32)

    @torch.no_grad()
    def _redraw(self, period: int, active: Tensor | None) -> None:
        """Draw new QV samples in those of the environments ``active`` [E] (all where None) that are due.

        The submissions of this round are there already: an attack that knows QV samples knows the old ones.
        """
        due = self.server.round % period == 0
        self._redrawn = due if active is None else due & active
        envs = self._redrawn.nonzero()[:, 0].tolist()
        if not envs:
            return
        self._loss_before_redraw = self.quasi_validation.loss_and_gradient(self.server.theta)[0]
        self._in_round = True  # a QV source may be anybody's code, and fail
        samples = [self._draw_qv(env, self.workers.generators[env]) for env in envs]
        self.quasi_validation.assign(envs, samples)
        self._in_round = False

    def _draw_for_attackers(self, envs: list[int] | None) -> tuple[Tensor, Tensor] | None:
        """QV samples of their own for attackers that know where such samples come from: other held-out ones.

        Inputs x [k, q, ...] and labels y [k, q] for some environments (all where None), zero where nobody
        knows; None where that is everywhere.
        """
        chosen = list(range(self.num_envs)) if envs is None else envs
        knowing = self.workers.knowing("qv_distribution", chosen)
        if not knowing:
            return None
        x, y = (torch.zeros_like(part[chosen]) for part in (self.quasi_validation.x, self.quasi_validation.y))
        for env in knowing:
            task = self._seen_by_source(env).without_held_out(
                self.quasi_validation.x[env], self.setup.qv_size
            )
            samples = draw_samples(self.setup, task, self.workers.generators[env])
            x[chosen.index(env)], y[chosen.index(env)] = samples
        return x, y

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
        context.qv_distribution = self._draw_for_attackers(envs)
        self.workers.submit(index, self.server.theta[chosen], context)
        submissions = self.workers.submissions[chosen]
        if self._blocks is not None:
            submissions = self._blocks.split(submissions)
        rows, rejected = receive(submissions, self.setup.secure_group_size)
        runs: Any = slice(None) if envs is None else self._runs(envs)
        if envs is not None:
            rejected = self.rejected.index_put((runs,), rejected)  # views keep the old one
        self.rejected = rejected
        if self._received is not None:
            self._received[runs] = rows
        elif envs is not None:
            self.workers.submissions[runs] = rows
        self._in_round = False

    def _runs(self, envs: list[int]) -> Tensor:
        """The rows of `view` that belong to these environments: the environments, or their servers."""
        index = torch.tensor(envs, dtype=torch.int64, device=self.setup.device)
        return index if self._blocks is None else self._blocks.rows(index)


def _checked_seeds(seeds: Any, envs: Sequence[int]) -> list[int]:
    if not isinstance(seeds, Sequence | np.ndarray) or isinstance(seeds, str) or len(seeds) != len(envs):
        raise ValueError(f"seeds must be one for each of the environments {list(envs)}, got {seeds!r}")
    return [check_int("seeds (each)", seed, low=0, high=2**63 - 1) for seed in seeds]
