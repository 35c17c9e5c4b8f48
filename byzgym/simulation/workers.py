"""The workers: roles, batches, gradients, momentum and attacks, for all environments at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

from byzgym import attacks
from byzgym.aggregation import RulePerEnvironment
from byzgym.aggregation.policy import combine
from byzgym.attacks import AttackContext
from byzgym.attacks.base import as_submissions
from byzgym.memory import Memory
from byzgym.numerics.finite import finite_rows
from byzgym.simulation.batches import BatchSampler, checked_shares
from byzgym.simulation.config import NamedAttack, Setup, byzantine_bounds, is_fault, named_attacks
from byzgym.simulation.dense import place
from byzgym.simulation.gradients import GradientEngine
from byzgym.simulation.weighted import weighted_gradients
from byzgym.validation import blamed

LONG_ROW = 1 << 14
"""Parameters from which gradients that nobody reads are left out."""

Group = tuple[int, Tensor]
"""The number of an attack, and the positions of the environments it acts in."""


class Workers:
    """All workers of E environments."""

    def __init__(self, setup: Setup, engine: GradientEngine, num_envs: int) -> None:
        n, device = setup.num_workers, setup.device
        self._setup, self._engine = setup, engine
        self.generators = [torch.Generator(device) for _ in range(num_envs)]
        self.attacks: list[NamedAttack] = []
        self.roles_memory = Memory(num_envs, device)
        self.memories = [self.roles_memory]
        """What roles keep, then what each attack keeps."""
        self.num_byzantine = [setup.num_byzantine] * num_envs
        """The bounds between which each environment draws its f at a reset."""
        self.attack_choices = [self.numbers_of(setup.attacks)] * num_envs
        """The numbers in ``attacks`` of those among which each environment draws one."""
        m, d = setup.cohort_size, engine.num_parameters
        self.batches = BatchSampler(num_envs, n, m, setup.local_steps * setup.batch_size, device)
        self.assigned = torch.zeros(num_envs, n, dtype=torch.bool, device=device)  # [E, n]
        self.acting = torch.zeros_like(self.assigned)  # [E, n], who is Byzantine in this round
        self.cohort = torch.arange(m, device=device).repeat(num_envs, 1)  # [E, m], who takes part in it
        self.byzantine = torch.zeros(num_envs, m, dtype=torch.bool, device=device)  # [E, m], of these
        self.attack_of = torch.zeros(num_envs, dtype=torch.int64, device=device)  # [E]
        self.submissions = torch.zeros(num_envs, m, d, device=device)  # [E, m, d]
        self.sent_mean = torch.zeros(num_envs, d, device=device)
        """The mean [E, d] of what the workers of this round sent before a fault in transmission, without what
        is not finite; meaningless in environments without such a fault. For references only."""
        self.momentum = torch.zeros(num_envs, n, d, device=device) if setup.worker_momentum else None

    def override(self, per_environment: Sequence[Mapping[str, Any]]) -> None:
        """Give environments an ``attack`` or a ``num_byzantine`` of their own, by a mapping for each."""
        num_envs = len(self.generators)
        if (
            not isinstance(per_environment, Sequence)
            or len(per_environment) != num_envs
            or not all(isinstance(override, Mapping) for override in per_environment)
        ):
            raise ValueError(f"per_environment must be {num_envs} mappings, got {per_environment!r}")
        for env, override in enumerate(per_environment):
            unknown = set(override) - {"attack", "num_byzantine"}
            if unknown:
                raise ValueError(
                    f"per_environment may override attack and num_byzantine, got {sorted(unknown)}"
                )
            if "num_byzantine" in override:
                bounds = byzantine_bounds(override["num_byzantine"], self._setup.num_workers)
                self.num_byzantine[env] = bounds
            if "attack" in override:
                self.attack_choices[env] = self.numbers_of(named_attacks(override["attack"]))

    def numbers_of(self, wanted: Sequence[NamedAttack]) -> list[int]:
        """The numbers of attacks; new ones are added. Environments with one attack share its number."""
        keys = [known.key for known in self.attacks]
        for attack in wanted:
            if attack.key not in keys:
                keys.append(attack.key)
                self.attacks.append(attack)
                self.memories.append(Memory(len(self.generators), self._setup.device))
        return [keys.index(attack.key) for attack in wanted]

    def reset(
        self, env: int, num_byzantine: tuple[int, int] | None = None, choices: Sequence[int] | None = None
    ) -> None:
        """Draw anew what belongs to one episode: who is Byzantine, the attack, the shares of the data.

        Bounds of f and choices of attacks that are None are the environment's own.
        """
        generator, n = self.generators[env], self._setup.num_workers
        low, high = num_byzantine or self.num_byzantine[env]
        number = low if low == high else low + _randint(high - low + 1, generator)
        order = torch.randperm(n, generator=generator, device=generator.device)
        self.assigned[env] = False
        self.assigned[env, order[:number]] = True
        self.acting[env] = self.assigned[env]
        choices = choices or self.attack_choices[env]
        self.attack_of[env] = choices[_randint(len(choices), generator)]
        labels = self._setup.task.train[1]
        with blamed(f"partition {self._setup.partition_name}"):
            result = self._setup.partition(labels.clone(), n, generator)
        self.batches.assign(env, *checked_shares(self._setup.partition_name, result, n, len(labels)))
        for memory in self.memories:
            memory.reset([env])
        if self.momentum is not None:
            self.momentum[env] = 0

    def knowing(self, knowledge: str, envs: Sequence[int]) -> list[int]:
        """Those of some environments in which the attack or the roles declare this knowledge."""
        actors = [self._setup.roles, *(attack.attack for attack in self.attacks)]
        knows = [knowledge in getattr(actor, "knowledge", ()) for actor in actors]
        if not any(knows):
            return []
        return [env for env in envs if knows[0] or knows[1 + int(self.attack_of[env])]]

    def submit(self, envs: Tensor | None, theta: Tensor, context: AttackContext) -> None:
        """Compute the submissions of ``envs`` (all where None), with their theta [k, d] and their context."""
        index = torch.arange(len(self.generators), device=theta.device) if envs is None else envs
        self._play_roles(index, context)
        cohort, samples = self.batches.draw(index, context.round, self.generators)
        self.cohort[index] = cohort
        if cohort.shape[1] < self.assigned.shape[1]:
            context = dataclasses.replace(context, workers=cohort)
        self.byzantine[index] = self.acting[index].gather(1, cohort)
        groups = self._groups(index)
        rows = self._rows_in_use(index, groups)
        x, y, weights = self._batch(samples, index, groups, context, rows)
        out = self.submissions if envs is None else theta.new_empty(len(index), *self.submissions.shape[1:])
        if self._setup.local_steps == 1:
            self._engine.gradients(theta, x, y, context.generators, out, rows)
            if weights is not None:
                env, worker = (weights != 1).any(2).nonzero(as_tuple=True)
                batches = x[env, worker], y[env, worker], weights[env, worker]
                out[env, worker] = weighted_gradients(self._engine, theta[env], *batches)
            self._decay(out, theta)
        else:
            place(self._local_changes(theta, x, y, weights, context), out, 0, rows)
        if self.momentum is not None:
            beta, own = self._setup.worker_momentum, (index[:, None], cohort)
            torch.add(self.momentum[own].mul_(beta), out, alpha=1 - beta, out=out)
            # A worker whose momentum is no longer finite begins anew.
            self.momentum[own] = out.masked_fill(~finite_rows(out)[..., None], 0)
        for number, members in groups:
            self._attack(number, members, index, out, context)
        if envs is not None:
            self.submissions[index] = out

    def _play_roles(self, index: Tensor, context: AttackContext) -> None:
        roles, name, assigned = self._setup.roles, self._setup.roles_name, self.assigned[index]
        if isinstance(roles, attacks.roles.Static):
            return
        everyone = torch.arange(len(index), device=index.device)
        given = _context_for(roles, context, everyone, self.roles_memory.of(index))
        with blamed(f"role function {name}"):
            result = roles(assigned, self.acting[index], given)
        if not isinstance(result, Tensor) or result.shape != assigned.shape or result.dtype != torch.bool:
            got = type(result).__name__
            if isinstance(result, Tensor):
                got = f"{result.dtype} {tuple(result.shape)}"
            raise ValueError(
                f"role function {name} must return a bool tensor of shape {tuple(assigned.shape)}, got {got}"
            )
        self.acting[index] = result

    def _groups(self, index: Tensor) -> list[Group]:
        """The attacks in play, each with the positions in ``index`` of the environments it acts in."""
        if len(self.attacks) == 1:
            return [(0, torch.arange(len(index), device=index.device))]
        attack_of = self.attack_of[index]
        return [(number, (attack_of == number).nonzero()[:, 0]) for number in sorted(set(attack_of.tolist()))]

    def _rows_in_use(self, index: Tensor, groups: list[Group]) -> Tensor | None:
        """The h workers [k, h] of each environment whose gradients anybody will see; None for all of them.

        Many attacks put something else in place of a Byzantine worker's own gradient, unseen. It is left out
        where that saves much and changes nothing else: the last bits of a short row would depend on the
        number of samples computed with it, and momentum is kept for a time when the worker may be honest.
        """
        engine = self._engine
        if self.momentum is not None or engine.num_parameters < LONG_ROW:
            return None
        alone = self._setup.local_steps == 1 and engine.one_by_one(self._setup.batch_size, index.device)
        if engine.draws and not alone:  # a worker would draw other numbers if others were left out
            return None
        acting = [self.attacks[number].attack for number, _ in groups]
        if any(is_fault(a) for a in acting):  # `sent_mean` is over all workers
            return None
        if any(getattr(a, "reads_own", True) or isinstance(a, attacks.DataPoisoning) for a in acting):
            return None
        honest = ~self.byzantine[index]
        counts = set(honest.sum(1).tolist())
        if len(counts) > 1 or 0 in counts:
            return None
        return honest.nonzero()[:, 1].view(len(index), -1)

    def _batch(
        self,
        samples: Tensor,
        index: Tensor,
        groups: list[Group],
        context: AttackContext,
        rows: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Batches x [k, h, B, ...], y [k, h, B], from samples [k, m, B], of ``rows`` (all m where None).

        Last come the weights [k, h, B] of the samples' losses; None where all are 1.
        """
        x_train, y_train = self._setup.task.train
        if rows is not None:
            samples = samples.gather(1, rows[..., None].expand(-1, -1, samples.shape[2]))
        x = x_train.index_select(0, samples.flatten()).view(*samples.shape, *x_train.shape[1:])
        y = y_train.index_select(0, samples.flatten()).view(samples.shape)
        weights: Tensor | None = None
        for number, members in groups:
            attack, name = self.attacks[number].attack, self.attacks[number].name
            if isinstance(attack, attacks.DataPoisoning):
                mask, given = self._told(number, members, index, context)
                env, worker = mask.nonzero(as_tuple=True)
                for batch in torch.arange(y.shape[2], device=y.device).split(self._setup.batch_size):
                    clean = x[members][:, :, batch], y[members][:, :, batch]  # of one local step
                    with blamed(f"attack {name}"):
                        poisoned = attack.poison(*clean, mask.clone(), given)
                    parts = _checked_batches(name, poisoned, clean, mask, context.num_classes)
                    if len(parts) == 3 and weights is None:
                        weights = torch.ones(y.shape, device=y.device)
                    for whole, part in zip((x, y, weights), parts, strict=False):
                        assert whole is not None
                        whole[members[env][:, None], worker[:, None], batch] = part[env, worker]
        return x, y, weights

    def _local_changes(
        self, theta: Tensor, x: Tensor, y: Tensor, weights: Tensor | None, context: AttackContext
    ) -> Tensor:
        """(theta - theta') / lr [k, h, d] of h workers whose models theta' took steps from theta [k, d].

        Batches x [k, h, K B, ...], y [k, h, K B] are those of K steps, one after the other, with weights of
        the samples' losses. The sum of the gradients is this difference, and does not lose digits.
        """
        num_envs, num_workers = y.shape[:2]
        x, y = x.flatten(0, 1), y.flatten(0, 1)  # [k h, K B, ...], a model for each worker
        crafted = torch.zeros(0, dtype=torch.int64) if weights is None else weights.flatten(0, 1)
        crafting = (crafted != 1).any(1).nonzero()[:, 0] if weights is not None else crafted  # workers
        theta = theta.repeat_interleave(num_workers, 0)  # [k h, d]
        rates = context.learning_rate.repeat_interleave(num_workers)[:, None]
        generators = [generator for generator in context.generators for _ in range(num_workers)]
        total, gradients = torch.zeros_like(theta), torch.empty_like(theta)
        size = self._setup.batch_size
        for first in range(0, y.shape[1], size):
            batch = slice(first, first + size)
            point = theta - rates * total
            self._engine.gradients(
                point, x[:, None, batch], y[:, None, batch], generators, gradients[:, None]
            )
            if len(crafting):
                own = x[crafting, batch], y[crafting, batch], crafted[crafting, batch]
                gradients[crafting] = weighted_gradients(self._engine, point[crafting], *own)
            self._decay(gradients[:, None], point)
            total += gradients
        return total.unflatten(0, (num_envs, num_workers))

    def _decay(self, gradients: Tensor, theta: Tensor) -> None:
        """Add the gradient of half the weight decay times |theta|^2, theta [k, d], to gradients [k, h, d]."""
        if self._setup.weight_decay:
            gradients.add_(theta[:, None], alpha=self._setup.weight_decay)

    def _attack(
        self, number: int, members: Tensor, index: Tensor, out: Tensor, context: AttackContext
    ) -> None:
        """Replace what Byzantine workers submit, in out [k, n, d]."""
        attack, name = self.attacks[number].attack, self.attacks[number].name
        mask, given = self._told(number, members, index, context)
        whole, n = len(members) == len(out), out.shape[1]
        # Numbers of rows, from 0 to k n - 1: indexing by environment and worker takes twice as long.
        if is_fault(attack):
            self.sent_mean[index[members]] = _mean_of_finite(out if whole else out[members])
        source = mask.flatten().nonzero()[:, 0]  # [m], Byzantine rows of `submitted`
        target = source if whole else members[source // n] * n + source % n  # [m], the same rows of `out`
        with blamed(f"attack {name}"):
            if _is_plain_noise(attack):
                _write_rows(out, target, attack.rows(out, mask, given))
                return
            known = isinstance(attack, attacks.Attack)
            gradients = out if whole and known else out[members]  # a foreign attack may write into it
            act = attack
            if isinstance(attack, attacks.Attack) and type(attack).__call__ is attacks.Attack.__call__:
                act = attack.corrupt  # the call would put honest rows back, as is done below
            submitted = as_submissions(name, act(gradients, mask.clone(), given), gradients.shape).detach()
        if getattr(attack, "scope", "workers") == "transmission":
            out[members] = submitted.to(out.dtype, copy=True)  # it may be a view of `out`
            return
        if (
            out.shape[2] < LONG_ROW
            or submitted.untyped_storage().data_ptr() == out.untyped_storage().data_ptr()
        ):
            _write_rows(out, target, submitted.flatten(0, 1).index_select(0, source))
        else:
            _write_rows(out, target, [submitted[row // n, row % n] for row in source.tolist()])

    def _told(
        self, number: int, members: Tensor, index: Tensor, context: AttackContext
    ) -> tuple[Tensor, AttackContext]:
        """Who is Byzantine in the environments ``members`` [m, n], and what their attack may know."""
        mask, memory = self.byzantine, self.memories[number + 1]
        if len(members) < len(self.generators):
            mask, memory = mask[index[members]], memory.of(index[members])
        given = _context_for(self.attacks[number].attack, context, members, memory)
        if given.rule is not None and self._setup.secure_group_size > 1:
            given.rule = _of_groups(given.rule, self._setup.secure_group_size)
        return mask, given


def _mean_of_finite(rows: Tensor) -> Tensor:
    """Means [k, d] of those of the rows [k, m, d] that are finite; zero where none is."""
    sound = finite_rows(rows).to(rows.dtype)  # [k, m]
    return combine(sound / sound.sum(1, keepdim=True).clamp(min=1), rows)


def _is_plain_noise(attack: Any) -> TypeGuard[attacks.Noise]:
    """Whether what an attack submits is nothing but its `Noise.rows`."""
    kind = type(attack)
    return (
        isinstance(attack, attacks.Noise)
        and attack.scope == "workers"
        and kind.corrupt is attacks.Noise.corrupt
        and kind.__call__ is attacks.Attack.__call__
    )


def _write_rows(out: Tensor, target: Tensor, rows: Tensor | Sequence[Tensor]) -> None:
    """Write rows [m, d] into the rows ``target`` [m] of out [k, n, d], numbered from 0 to k n - 1."""
    flat = out.view(-1, out.shape[2])
    if out.shape[2] >= LONG_ROW:  # few rows, which an index would write at a seventh of the speed
        for number, row in zip(target.tolist(), rows, strict=True):
            flat[number] = row
    else:
        assert isinstance(rows, Tensor)
        flat.index_copy_(0, target, rows.to(out.dtype))


def _checked_batches(
    name: str, poisoned: Any, given: tuple[Tensor, Tensor], mask: Tensor, num_classes: int
) -> tuple[Tensor, ...]:
    """What `DataPoisoning.poison` returned: inputs, labels and perhaps weights."""
    shapes = [given[0].shape, given[1].shape, given[1].shape]
    if (
        isinstance(poisoned, tuple | list)
        and len(poisoned) in (2, 3)
        and all(isinstance(new, Tensor) for new in poisoned)
        and all(new.shape == shape for new, shape in zip(poisoned, shapes, strict=False))
        and poisoned[1].dtype == torch.int64
        and bool(((poisoned[1] >= 0) & (poisoned[1] < num_classes))[mask].all())
    ):
        x, y, *weights = poisoned
        return x.detach().to(given[0].dtype), y, *(one.detach().to(given[0].dtype) for one in weights)
    raise ValueError(
        f"attack {name} must return inputs of shape {tuple(given[0].shape)} and labels of shape "
        f"{tuple(given[1].shape)}, int64 from 0 to {num_classes - 1}, and perhaps weights of the shape of "
        "the labels, from poison"
    )


def _context_for(actor: Any, context: AttackContext, members: Tensor, memory: Memory) -> AttackContext:
    """The context of some environments for an attack or a role, with the server's data that it declares."""
    knowledge: frozenset[str] = getattr(actor, "knowledge", frozenset())
    rule = context.rule if "rule" in knowledge else None
    qv = context.qv if "qv" in knowledge else None
    fresh = context.qv_distribution if "qv_distribution" in knowledge else None
    labels = context.qv[1].sort(dim=1).values if context.qv and "qv_labels" in knowledge else None
    if len(members) == len(context.generators) and isinstance(actor, attacks.Attack):
        # It has promised to write into nothing, so it may see the tensors themselves.
        return dataclasses.replace(
            context, rule=rule, qv=qv, qv_distribution=fresh, qv_labels=labels, memory=memory
        )
    return AttackContext(
        round=context.round[members],
        generators=[context.generators[e] for e in members.tolist()],
        learning_rate=context.learning_rate[members],
        previous_update=context.previous_update[members],
        num_classes=context.num_classes,
        largest_input=context.largest_input,
        rule=rule.of(members) if isinstance(rule, RulePerEnvironment) else rule,
        qv=None if qv is None else (qv[0][members], qv[1][members]),
        qv_distribution=None if fresh is None else (fresh[0][members], fresh[1][members]),
        qv_labels=None if labels is None else labels[members],
        memory=memory,
        workers=None if context.workers is None else context.workers[members],
    )


def _of_groups(rule: Callable[[Tensor], Tensor], size: int) -> Callable[[Tensor], Tensor]:
    """What a rule makes of submissions [..., n, d] of which the server sees means over groups."""
    return lambda submissions: rule(submissions.unflatten(-2, (-1, size)).mean(-2))


def _randint(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator, device=generator.device))
