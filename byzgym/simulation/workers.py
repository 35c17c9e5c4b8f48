"""The workers: roles, batches, gradients, momentum and attacks, for all environments at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

from byzgym import attacks
from byzgym.aggregation import RulePerEnvironment
from byzgym.attacks import AttackContext
from byzgym.attacks.base import as_submissions
from byzgym.memory import Memory
from byzgym.simulation.batches import BatchSampler, checked_shares
from byzgym.simulation.config import Attack, NamedAttack, Setup
from byzgym.simulation.gradients import GradientEngine
from byzgym.validation import blamed

LONG_ROW = 1 << 14
"""Parameters from which rows are copied one by one, and gradients that nobody reads are left out."""

Group = tuple[int, Tensor]
"""The number of an attack, and the positions of the environments it acts in."""


class Workers:
    """All workers of E environments.

    Args:
        setup: What defines the simulation.
        engine: Computes their gradients.
        num_byzantine: Per environment, the bounds between which f is drawn at a reset.
        attack_choices: Per environment, the numbers of the attacks among which one is drawn at a reset.
        named_attacks: All attacks; `attack_of` and ``attack_choices`` are numbers in this list.
    """

    def __init__(
        self,
        setup: Setup,
        engine: GradientEngine,
        num_byzantine: Sequence[tuple[int, int]],
        attack_choices: Sequence[Sequence[int]],
        named_attacks: Sequence[NamedAttack],
    ) -> None:
        num_envs, n, device = len(num_byzantine), setup.num_workers, setup.device
        self._setup = setup
        self._engine = engine
        self.num_byzantine = num_byzantine
        self._attack_choices = attack_choices
        self.attacks: list[NamedAttack] = []
        self.roles_memory = Memory(num_envs, device)
        self.memories = [self.roles_memory]
        """What roles keep, then what each attack keeps."""
        for attack in named_attacks:
            self.add_attack(attack)
        self.generators = [torch.Generator(device) for _ in range(num_envs)]
        self.batches = BatchSampler(num_envs, n, setup.batch_size, device)
        self.assigned = torch.zeros(num_envs, n, dtype=torch.bool, device=device)  # [E, n]
        self.byzantine = torch.zeros_like(self.assigned)  # [E, n], in this round
        self.attack_of = torch.zeros(num_envs, dtype=torch.int64, device=device)  # [E]
        self.submissions = torch.zeros(num_envs, n, engine.num_parameters, device=device)  # [E, n, d]
        self.momentum = torch.zeros_like(self.submissions) if setup.worker_momentum else None

    def add_attack(self, attack: NamedAttack) -> int:
        """Add an attack that episodes can have; returns its number."""
        self.attacks.append(attack)
        self.memories.append(Memory(len(self.num_byzantine), self._setup.device))
        return len(self.attacks) - 1

    def reset(
        self, env: int, num_byzantine: tuple[int, int] | None = None, choices: Sequence[int] | None = None
    ) -> None:
        """Draw anew what belongs to one episode: who is Byzantine, the attack, the shares of the data.

        Args:
            env: The environment.
            num_byzantine: Bounds of f in this episode; the environment's own where None.
            choices: Numbers of the attacks to draw from in this episode; the environment's own where None.
        """
        generator, n = self.generators[env], self._setup.num_workers
        low, high = num_byzantine or self.num_byzantine[env]
        number = low if low == high else low + _randint(high - low + 1, generator)
        order = torch.randperm(n, generator=generator, device=generator.device)
        self.assigned[env] = False
        self.assigned[env, order[:number]] = True
        self.byzantine[env] = self.assigned[env]
        choices = choices or self._attack_choices[env]
        self.attack_of[env] = choices[_randint(len(choices), generator)]
        labels = self._setup.task.train[1]
        with blamed(f"partition {self._setup.partition_name}"):
            result = self._setup.partition(labels.clone(), n, generator)
        self.batches.assign(env, *checked_shares(self._setup.partition_name, result, n, len(labels)))
        for memory in self.memories:
            memory.reset([env])
        if self.momentum is not None:
            self.momentum[env] = 0

    def submit(self, envs: Tensor | None, theta: Tensor, context: AttackContext) -> None:
        """Compute the submissions of this round for the environments ``envs`` (all where None).

        Args:
            envs: Numbers of k environments, or None.
            theta: Their parameters, shape [k, d].
            context: What attacks may know, for these environments.
        """
        index = torch.arange(len(self.generators), device=theta.device) if envs is None else envs
        self._play_roles(index, context)
        groups = self._groups(index)
        rows = self._rows_in_use(index, groups)
        x, y = self._batch(index, groups, context, rows)
        out = self.submissions if envs is None else theta.new_empty(len(index), *self.submissions.shape[1:])
        self._engine.gradients(theta, x, y, context.generators, out, rows)
        if self.momentum is not None:
            beta = self._setup.worker_momentum
            torch.add(self.momentum[index].mul_(beta), out, alpha=1 - beta, out=out)
            self.momentum[index] = _without_broken_rows(out)
        for number, members in groups:
            self._attack(number, members, index, out, context)
        if envs is not None:
            self.submissions[index] = out

    def _play_roles(self, index: Tensor, context: AttackContext) -> None:
        roles, name = self._setup.roles, self._setup.roles_name
        if isinstance(roles, attacks.roles.Static):
            return
        assigned = self.assigned[index]
        everyone = torch.arange(len(index), device=index.device)
        given = _context_for(roles, context, everyone, self.roles_memory.of(index))
        with blamed(f"role function {name}"):
            result = roles(assigned, self.byzantine[index], given)
        if not isinstance(result, Tensor) or result.shape != assigned.shape or result.dtype != torch.bool:
            got = f"{result.dtype} {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(
                f"role function {name} must return a bool tensor of shape {tuple(assigned.shape)}, got {got}"
            )
        self.byzantine[index] = result

    def _groups(self, index: Tensor) -> list[Group]:
        """The attacks in play, each with the positions in ``index`` of the environments it acts in."""
        attack_of = self.attack_of[index]
        return [
            (number, (attack_of == number).nonzero()[:, 0]) for number in sorted(set(attack_of.tolist()))
        ]

    def _rows_in_use(self, index: Tensor, groups: list[Group]) -> Tensor | None:
        """The h workers [k, h] of each environment whose gradients anybody will see; None for all of them.

        Many attacks put something else in place of a Byzantine worker's own gradient, unseen. It is left out where
        that saves much and changes nothing else: the last bits of a short row would depend on the number of
        samples computed with it, and momentum is kept for a time when the worker may be honest.
        """
        engine = self._engine
        if self.momentum is not None or engine.draws or engine.num_parameters < LONG_ROW:
            return None
        acting = [self.attacks[number].attack for number, _ in groups]
        if any(getattr(a, "reads_own", True) or isinstance(a, attacks.DataPoisoning) for a in acting):
            return None
        honest = ~self.byzantine[index]
        counts = set(honest.sum(1).tolist())
        if len(counts) > 1 or 0 in counts:
            return None
        return honest.nonzero()[:, 1].view(len(index), -1)

    def _batch(
        self, index: Tensor, groups: list[Group], context: AttackContext, rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Batches x [k, h, B, ...] and y [k, h, B] of the workers ``rows`` (all n where None).

        They are poisoned where the attack is on data.
        """
        x_train, y_train = self._setup.task.train
        samples = self.batches.draw(index, context.round, self.generators)
        if rows is not None:
            samples = samples.gather(1, rows[..., None].expand(-1, -1, samples.shape[2]))
        x = x_train.index_select(0, samples.flatten()).view(*samples.shape, *x_train.shape[1:])
        y = y_train.index_select(0, samples.flatten()).view(samples.shape)
        for number, members in groups:
            attack, name = self.attacks[number].attack, self.attacks[number].name
            if isinstance(attack, attacks.DataPoisoning):
                mask = self.byzantine[index][members]
                memory = self.memories[number + 1].of(index[members])
                given = x[members], y[members]
                with blamed(f"attack {name}"):
                    poisoned = attack.poison(
                        *given, mask.clone(), _context_for(attack, context, members, memory)
                    )
                poisoned_x, poisoned_y = _checked_batches(name, poisoned, given, mask, context.num_classes)
                env, worker = mask.nonzero(as_tuple=True)
                x[members[env], worker] = poisoned_x[env, worker]
                y[members[env], worker] = poisoned_y[env, worker]
        return x, y

    def _attack(
        self, number: int, members: Tensor, index: Tensor, out: Tensor, context: AttackContext
    ) -> None:
        """Replace what Byzantine workers submit, in out [k, n, d], in the environments ``members`` only."""
        attack, name, memory = self.attacks[number].attack, self.attacks[number].name, self.memories[number + 1]
        mask = self.byzantine
        if len(members) < len(self.generators):
            mask, memory = mask[index[members]], memory.of(index[members])
        env, worker = mask.nonzero(as_tuple=True)
        given = _context_for(attack, context, members, memory)
        with blamed(f"attack {name}"):
            if _is_plain_noise(attack):
                _write_rows(out, members[env], worker, attack.rows(out, mask, given))
                return
            whole = len(members) == len(out) and isinstance(attack, attacks.Attack)
            gradients = out if whole else out[members]  # a foreign attack may write into what it is given
            submitted = as_submissions(name, _acting(attack)(gradients, mask.clone(), given), gradients.shape)
        submitted = submitted.detach()
        if getattr(attack, "scope", "workers") == "transmission":
            out[members] = submitted.to(out.dtype, copy=True)  # it may be a view of `out`
            return
        is_view = submitted.untyped_storage().data_ptr() == out.untyped_storage().data_ptr()
        if out.shape[2] < LONG_ROW or is_view:
            rows: Tensor | list[Tensor] = submitted[env, worker]
        else:
            rows = [submitted[e, w] for e, w in zip(env.tolist(), worker.tolist(), strict=True)]
        _write_rows(out, members[env], worker, rows)


def _is_plain_noise(attack: Attack) -> TypeGuard[attacks.Noise]:
    """Whether what an attack submits is nothing but its `Noise.rows`."""
    kind = type(attack)
    return (
        isinstance(attack, attacks.Noise)
        and attack.scope == "workers"
        and kind.corrupt is attacks.Noise.corrupt  # type: ignore[attr-defined]
        and kind.__call__ is attacks.Attack.__call__
    )


def _acting(attack: Attack) -> Attack:
    """What to call: `Attack.__call__` would put honest rows back, which is done here for all attacks."""
    if isinstance(attack, attacks.Attack) and type(attack).__call__ is attacks.Attack.__call__:
        return attack.corrupt
    return attack


def _write_rows(out: Tensor, env: Tensor, worker: Tensor, rows: Tensor | Sequence[Tensor]) -> None:
    """Write rows [m, d] into the rows (env, worker), each an index [m], of out [k, n, d]."""
    _, n, d = out.shape
    if d >= LONG_ROW:  # few rows, which an index would write at a seventh of the speed
        for e, w, row in zip(env.tolist(), worker.tolist(), rows, strict=True):
            out[e, w] = row
    else:  # writing through two indices takes many times as long for many rows
        assert isinstance(rows, Tensor)
        out.view(-1, d).index_copy_(0, env * n + worker, rows.to(out.dtype))


def _checked_batches(
    name: str, poisoned: Any, given: tuple[Tensor, Tensor], mask: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """The inputs and labels that a data poisoning has returned in place of those given."""
    if (
        isinstance(poisoned, tuple | list)
        and len(poisoned) == len(given)
        and all(isinstance(new, Tensor) for new in poisoned)
        and all(new.shape == old.shape for new, old in zip(poisoned, given, strict=True))
        and poisoned[1].dtype == torch.int64
        and bool(((poisoned[1] >= 0) & (poisoned[1] < num_classes))[mask].all())
    ):
        return poisoned[0].detach().to(given[0].dtype), poisoned[1]
    raise ValueError(
        f"attack {name} must return inputs of shape {tuple(given[0].shape)} and labels of shape "
        f"{tuple(given[1].shape)}, int64 from 0 to {num_classes - 1}, from poison"
    )


def _without_broken_rows(momentum: Tensor) -> Tensor:
    """Momentum [k, n, d] to go on with: a worker whose own is no longer finite begins anew."""
    if math.isfinite(momentum.sum()):
        return momentum
    broken = ~momentum.isfinite().all(2, keepdim=True)
    return momentum.masked_fill(broken, 0)


def _context_for(actor: Any, context: AttackContext, members: Tensor, memory: Memory) -> AttackContext:
    """The context of some environments, with no more of the server's data than the actor declares.

    The actor is an attack or a role function.
    """
    knowledge: frozenset[str] = getattr(actor, "knowledge", frozenset())
    rule = context.rule if "rule" in knowledge else None
    qv = context.qv if "qv" in knowledge else None
    if len(members) == len(context.generators) and isinstance(actor, attacks.Attack):
        # It has promised to write into nothing, so it may see the tensors themselves.
        return dataclasses.replace(context, rule=rule, qv=qv, memory=memory)
    return AttackContext(
        round=context.round[members],
        generators=[context.generators[e] for e in members.tolist()],
        learning_rate=context.learning_rate[members],
        previous_update=context.previous_update[members],
        num_classes=context.num_classes,
        rule=rule.of(members) if isinstance(rule, RulePerEnvironment) else rule,
        qv=None if qv is None else (qv[0][members], qv[1][members]),
        memory=memory,
    )


def _randint(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator, device=generator.device))
