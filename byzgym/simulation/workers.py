"""The workers: roles, batches, gradients, momentum and attacks, for all environments at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

from byzgym import attacks
from byzgym.aggregation import RuleOfEach
from byzgym.attacks.base import as_submissions
from byzgym.simulation.batches import BatchSampler, checked_shares
from byzgym.simulation.gradients import GradientEngine
from byzgym.simulation.modules import LARGE_MODEL as LONG_ROW
from byzgym.simulation.settings import Attack, Settings
from byzgym.validation import blamed


class Workers:
    """All workers of E environments.

    Args:
        settings: What defines the simulation.
        engine: Computes their gradients.
        num_byzantine: Per environment, the bounds between which f is drawn at a reset.
        attack_choices: Per environment, the numbers of the attacks among which one is drawn at a reset.
    """

    def __init__(
        self,
        settings: Settings,
        engine: GradientEngine,
        num_byzantine: Sequence[tuple[int, int]],
        attack_choices: Sequence[Sequence[int]],
    ) -> None:
        num_envs, n, device = len(num_byzantine), settings.num_workers, settings.device
        self._settings = settings
        self._engine = engine
        self.num_byzantine = num_byzantine
        self._attack_choices = attack_choices
        self.generators = [torch.Generator(device) for _ in range(num_envs)]
        self.batches = BatchSampler(num_envs, n, settings.batch_size, device)
        self.assigned = torch.zeros(num_envs, n, dtype=torch.bool, device=device)  # [E, n]
        self.byzantine = torch.zeros_like(self.assigned)  # [E, n], in this round
        self.attack_of = torch.zeros(num_envs, dtype=torch.int64, device=device)  # [E]
        self.submissions = torch.zeros(num_envs, n, engine.num_parameters, device=device)  # [E, n, d]
        self.momentum = torch.zeros_like(self.submissions) if settings.worker_momentum else None
        self._groups_of_all: list[tuple[Attack, Tensor]] | None = None

    def reset(self, env: int) -> None:
        """Draw anew what belongs to one episode: who is Byzantine, the attack, the shares of the data."""
        generator, n = self.generators[env], self._settings.num_workers
        low, high = self.num_byzantine[env]
        number = low if low == high else low + _randint(high - low + 1, generator)
        order = torch.randperm(n, generator=generator, device=generator.device)
        self.assigned[env] = False
        self.assigned[env, order[:number]] = True
        self.byzantine[env] = self.assigned[env]
        choices = self._attack_choices[env]
        self.attack_of[env] = choices[_randint(len(choices), generator)]
        self._groups_of_all = None
        labels = self._settings.task.train[1]
        partition = self._settings.partition
        with blamed(f"partition {partition!r}"):
            result = partition(labels.clone(), n, generator)
        self.batches.assign(env, *checked_shares(partition, result, n, len(labels)))
        if self.momentum is not None:
            self.momentum[env] = 0

    def forget_groups(self) -> None:
        """Must be called when `attack_of` has been changed from outside."""
        self._groups_of_all = None

    def submit(self, envs: Tensor | None, theta: Tensor, context: attacks.AttackContext) -> None:
        """Compute the submissions of this round for the environments ``envs`` (all where None).

        Args:
            envs: Numbers of k environments, or None.
            theta: Their parameters, shape [k, d].
            context: What attacks may know, for these environments.
        """
        every = len(self.generators)
        index = torch.arange(every, device=theta.device) if envs is None else envs
        self._play_roles(index, context)
        if envs is None and self._groups_of_all is None:
            self._groups_of_all = self._groups(index)
        groups = self._groups_of_all if envs is None and self._groups_of_all else self._groups(index)
        rows = self._rows_in_use(index, groups)
        x, y = self._batch(index, groups, context, rows)
        out = self.submissions if envs is None else theta.new_empty(len(index), *self.submissions.shape[1:])
        self._engine.gradients(theta, x, y, context.generators, out, rows)
        if self.momentum is not None:
            beta = self._settings.worker_momentum
            torch.add(self.momentum[index].mul_(beta), out, alpha=1 - beta, out=out)
            self.momentum[index] = _without_broken_rows(out)
        byzantine = self.byzantine if envs is None else self.byzantine[index]
        for attack, members in groups:
            self._tamper(attack, members, out, byzantine, context)
        if envs is not None:
            self.submissions[index] = out

    def _play_roles(self, index: Tensor, context: attacks.AttackContext) -> None:
        if self._settings.static_roles:
            return
        assigned = self.assigned[index]
        allowed = _select(context, torch.arange(len(index), device=index.device), self._settings.roles)
        with blamed(f"role function {self._settings.roles!r}"):
            roles = self._settings.roles(assigned, self.byzantine[index], allowed)
        if not isinstance(roles, Tensor) or roles.shape != assigned.shape or roles.dtype != torch.bool:
            got = f"{roles.dtype} {tuple(roles.shape)}" if isinstance(roles, Tensor) else repr(roles)
            raise ValueError(
                f"role function {self._settings.roles!r} must return a bool tensor of shape "
                f"{tuple(assigned.shape)}, got {got}"
            )
        self.byzantine[index] = roles

    def _rows_in_use(self, index: Tensor, groups: list[tuple[Attack, Tensor]]) -> Tensor | None:
        """The h workers [k, h] of each environment whose gradients anybody will see; None for all of them.

        Many attacks put something else in place of a Byzantine worker's own gradient, unseen. It is left out
        where that saves much and changes nothing else: a short row's last bits would depend on the number of
        samples computed with it, and momentum is kept for a time when the worker may be honest.
        """
        engine = self._engine
        if self.momentum is not None or engine.draws or engine.num_parameters < LONG_ROW:
            return None
        if any(
            getattr(attack, "reads_own", True) or isinstance(attack, attacks.DataPoisoning)
            for attack, _ in groups
        ):
            return None
        honest = ~self.byzantine[index]
        counts = set(honest.sum(1).tolist())
        if len(counts) > 1 or 0 in counts:
            return None
        return honest.nonzero()[:, 1].view(len(index), -1)

    def _batch(
        self,
        index: Tensor,
        groups: list[tuple[Attack, Tensor]],
        context: attacks.AttackContext,
        rows: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Batches x [k, h, B, ...] and y [k, h, B] of the workers ``rows`` (all n where None).

        They are poisoned where the attack is on data.
        """
        x_train, y_train = self._settings.task.train
        samples = self.batches.draw(index, context.round, self.generators)
        if rows is not None:
            samples = samples.gather(1, rows[..., None].expand(-1, -1, samples.shape[2]))
        x = x_train.index_select(0, samples.flatten()).view(*samples.shape, *x_train.shape[1:])
        y = y_train.index_select(0, samples.flatten()).view(samples.shape)
        for attack, members in groups:
            if isinstance(attack, attacks.DataPoisoning):
                mask = self.byzantine[index][members]
                with blamed(f"attack {attack!r}"):
                    given = x[members], y[members]
                    poisoned = attack.poison(*given, mask.clone(), _select(context, members, attack))
                poisoned_x, poisoned_y = _checked_batches(attack, poisoned, given, mask, context.num_classes)
                env, worker = mask.nonzero(as_tuple=True)
                x[members[env], worker] = poisoned_x[env, worker]
                y[members[env], worker] = poisoned_y[env, worker]
        return x, y

    def _groups(self, index: Tensor) -> list[tuple[Attack, Tensor]]:
        """The attacks in play, each with the positions in ``index`` of the environments it acts in."""
        attack_of = self.attack_of[index]
        if len(self._settings.attacks) == 1:
            return [(self._settings.attacks[0], torch.arange(len(index), device=index.device))]
        return [
            (self._settings.attacks[number], (attack_of == number).nonzero()[:, 0])
            for number in attack_of.unique().tolist()
        ]

    def _tamper(
        self, attack: Attack, members: Tensor, out: Tensor, byzantine: Tensor, context: attacks.AttackContext
    ) -> None:
        """Replace the Byzantine rows of out [k, n, d], in the environments ``members`` only."""
        whole = len(members) == len(out)
        mask = byzantine if whole else byzantine[members]
        if _is_plain_noise(attack):
            with blamed(f"attack {attack!r}"):
                rows = attack.rows(out, mask, _select(context, members, attack))
                env, worker = mask.nonzero(as_tuple=True)
                _put(out, members[env], worker, rows)
            return
        if not isinstance(attack, attacks.Attack):
            gradients = out[members]  # A foreign attack may write into what it is given, or keep it.
        else:
            gradients = out if whole else out.index_select(0, members)
        shape = gradients.shape
        with blamed(f"attack {attack!r}"):
            act = attack
            if isinstance(attack, attacks.Attack) and type(attack).__call__ is attacks.Attack.__call__:
                act = attack.corrupt  # honest rows are put back below, in any case
            submitted = act(gradients, mask.clone(), _select(context, members, attack))
        submitted = as_submissions(attack, submitted, shape).detach()
        if getattr(attack, "scope", "workers") == "transmission":
            out[members] = submitted.to(out.dtype, copy=True)  # it may be a view of `out`
            return
        if whole and shape[2] < LONG_ROW:
            # Not out=out: what is submitted may be a view of it.
            out.copy_(torch.where(mask[..., None], submitted, out))
            return
        env, worker = mask.nonzero(as_tuple=True)
        if shape[2] < LONG_ROW or submitted.untyped_storage().data_ptr() == out.untyped_storage().data_ptr():
            _put(out, members[env], worker, _rows_of(submitted, env, worker))
            return
        for target, source, row in zip(members[env].tolist(), env.tolist(), worker.tolist(), strict=True):
            out[target, row] = submitted[source, row]


def _is_plain_noise(attack: Attack) -> TypeGuard[attacks.Noise]:
    """Whether what an attack submits is nothing but its `Noise.rows`."""
    return (
        isinstance(attack, attacks.Noise)
        and attack.scope == "workers"
        and getattr(attack.corrupt, "__func__", None) is attacks.Noise.corrupt
        and type(attack).__call__ is attacks.Attack.__call__
    )


def _rows_of(submitted: Tensor, env: Tensor, worker: Tensor) -> Tensor:
    """The rows (env, worker), each an index [m], of submissions [k, n, d]; shape [m, d]."""
    if submitted.stride(1) == 0:  # a common submission
        return submitted[:, 0].index_select(0, env)
    return submitted.reshape(-1, submitted.shape[2]).index_select(0, env * submitted.shape[1] + worker)


def _put(out: Tensor, env: Tensor, worker: Tensor, rows: Tensor) -> None:
    """Write rows [m, d] into the rows (env, worker), each an index [m], of out [k, n, d]."""
    _, n, d = out.shape
    rows = rows.to(out.dtype)
    if d >= LONG_ROW:
        for e, w, row in zip(env.tolist(), worker.tolist(), rows, strict=True):
            out[e, w] = row
        return
    matrix = out.view(-1, d)  # one index is faster than two
    if d * out.element_size() % 8 == 0:
        # The time goes by entries, not by bytes: two at a time take less than half of it.
        matrix, rows = matrix.view(torch.int64), rows.view(torch.int64)
    matrix[env * n + worker] = rows


def _checked_batches(
    attack: Attack, poisoned: Any, given: tuple[Tensor, Tensor], mask: Tensor, num_classes: int
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
        f"attack {attack!r} must return inputs of shape {tuple(given[0].shape)} and labels of shape "
        f"{tuple(given[1].shape)}, int64 from 0 to {num_classes - 1}, from poison"
    )


def _without_broken_rows(momentum: Tensor) -> Tensor:
    """Momentum [k, n, d] to go on with: a worker whose own is no longer finite begins anew."""
    if math.isfinite(momentum.sum()):
        return momentum
    broken = ~momentum.isfinite().all(2, keepdim=True)
    return momentum.masked_fill(broken, 0)


def _select(context: attacks.AttackContext, members: Tensor, reader: Any) -> attacks.AttackContext:
    """The context of some environments, with no more of the server's data than its reader declares.

    The reader is an attack or a role function.
    """
    knowledge: frozenset[str] = getattr(reader, "knowledge", frozenset())
    qv = context.qv if "qv" in knowledge else None
    rule = context.rule if "rule" in knowledge else None
    if len(members) == len(context.generators) and isinstance(reader, attacks.Attack):
        # It has promised to write into nothing, so it may see the tensors themselves.
        return dataclasses.replace(context, rule=rule, qv=qv)
    if isinstance(rule, RuleOfEach):
        rule = rule.of(members)
    return attacks.AttackContext(
        round=context.round[members],
        generators=[context.generators[e] for e in members.tolist()],
        learning_rate=context.learning_rate[members],
        previous_update=context.previous_update[members],
        num_classes=context.num_classes,
        rule=rule,
        qv=None if qv is None else (qv[0][members], qv[1][members]),
    )


def _randint(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator, device=generator.device))
