"""Attacks that use what happened in earlier rounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from byzgym.attacks.base import Attack, AttackContext
from byzgym.attacks.colluding import ALittleIsEnough
from byzgym.attacks.registry import registry
from byzgym.numerics.distances import take_row, unit_rows
from byzgym.numerics.moments import at_least_single, honest_mean
from byzgym.validation import check_int, check_real


@registry.built_in("mimic")
class Mimic(Attack):
    """Mimic of Karimireddy et al. 2022, "Byzantine-robust learning on heterogeneous datasets via bucketing"
    (https://arxiv.org/abs/2006.09365). Byzantine workers all copy one honest worker, the one farthest along
    the direction in which honest gradients differ most.

    Where workers have different data, the rule is thus made to count one worker's data too often, and nothing
    looks wrong. In the first ``warmup`` rounds the direction z is learned by Oja's rule, and the worker i of
    the largest ``<g_i, z>`` is copied; from then on it stays the same. With mu for the average of the honest
    means so far, round t = 0, 1, ... has ``z <- t z + u``, divided by its norm, where u is ``sum_i <g_i - mu,
    z> (g_i - mu)`` over honest workers, divided by its norm. At first z is normal noise. If the copied worker
    becomes Byzantine, or does not take part, another one is chosen with the z of the warm-up. The attackers
    know all honest gradients. They remember 2 d numbers for each environment. That is the authors' code
    (https://github.com/epfml/byzantine-robust-noniid-optimizer). ByzFL and FLPoison copy one worker from the
    first round on, as with ``worker=0``.

    Args:
        warmup: Rounds, at least 1. It has no effect where ``worker`` is given.
        worker: Copy this one of the honest workers, counted from 0 (the last one, if there are fewer),
            without a search; None for the search.

    Example:
        >>> gradients = torch.tensor([[[0.0], [9.0], [-9.0], [5.0]]])
        >>> byzantine = torch.tensor([[False, False, False, True]])
        >>> context = AttackContext.standalone(gradients)
        >>> Mimic()(gradients, byzantine, context)[0, 3]
        tensor([9.])
        >>> Mimic()(2 * gradients, byzantine, context)[0, 3]
        tensor([18.])
    """

    reads_own = False

    def __init__(self, warmup: int = 10, worker: int | None = None) -> None:
        self.warmup = check_int("warmup", warmup, low=1)
        self.worker = None if worker is None else check_int("worker (unless None)", worker, low=0)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, 1, d], zero where nobody is honest; see `Attack.corrupt`."""
        if self.worker is None:
            target = self._search(gradients, byzantine, context)
        else:
            target = _honest_worker(byzantine, self.worker)
        copied = take_row(gradients, target)
        return copied.masked_fill(byzantine.all(1)[:, None], 0)[:, None]

    def _search(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """The row [E] of the worker to copy, chosen anew while the warm-up lasts."""
        rounds = _count(context, "mimic_rounds")
        worker = context.memory.read("mimic_target", dtype=torch.int64)  # [E]
        numbers = context.numbers(byzantine.shape[1])  # [E, n]
        here = numbers == worker[:, None]
        target = here.int().argmax(1)  # [E], a row
        learning = rounds < self.warmup
        lost = ~here.any(1) | byzantine.gather(1, target[:, None])[:, 0]
        choosing = learning | lost
        if choosing.any():
            rows = at_least_single(gradients).masked_fill(byzantine[..., None], 0)
            direction = self._direction(rows, byzantine, rounds, context)
            along = (rows * direction[:, None]).sum(-1).masked_fill(byzantine, -torch.inf)  # [E, n]
            target = torch.where(choosing, along.argmax(1), target)
            context.memory.write("mimic_target", numbers.gather(1, target[:, None])[:, 0])
        return target

    def _direction(self, rows: Tensor, byzantine: Tensor, rounds: Tensor, context: AttackContext) -> Tensor:
        """The direction [E, d], learned from another round where the warm-up lasts."""
        memory, dimension = context.memory, rows.shape[2]
        mean = memory.read("mimic_mean", dimension, dtype=rows.dtype)
        direction = memory.read("mimic_direction", dimension, dtype=rows.dtype)
        first, learning = (rounds == 0)[:, None], (rounds < self.warmup)[:, None]
        if first.any():
            noise = context.normal(dimension, dtype=rows.dtype, where=first[:, 0])
            direction = torch.where(first, unit_rows(noise), direction)
        old = (rounds / (rounds + 1)).to(rows.dtype)[:, None]  # the weight of the rounds before
        mean = torch.where(learning, old * mean + (1 - old) * honest_mean(rows, byzantine), mean)
        deviations = (rows - mean[:, None]).masked_fill_(byzantine[..., None], 0)
        # Their scale does not matter, and squares of large numbers would overflow.
        along = unit_rows((deviations * direction[:, None]).sum(-1))  # [E, n]
        step = unit_rows((along[..., None] * deviations).sum(1))
        moves = learning & step.any(-1, keepdim=True)  # there is no step where honest rows are equal
        direction = torch.where(moves, unit_rows(old * direction + (1 - old) * step), direction)
        memory.write("mimic_mean", mean)
        memory.write("mimic_direction", direction)
        return direction


@registry.built_in("replay")
class Replay(Attack):
    """Stale gradients: Byzantine workers resend what they would honestly have sent ``delay`` rounds ago.

    Until then they resend what they would have sent in the first round. Asynchronous servers get stale
    gradients from honest workers, too; Damaskinos et al. 2018 protect such a server, "Asynchronous Byzantine
    machine learning (the case of SGD)" (https://proceedings.mlr.press/v80/damaskinos18a.html).

    A worker needs to know its own past only, and one that has been honest so far has one, too. Hence
    ``delay`` n d numbers are remembered for each environment: with n = 10 and d = 100,000 that is 4 MB for
    each round of delay.

    Args:
        delay: Rounds, at least 1.

    Raises:
        ValueError: When attacking, if not everybody takes part in every round.

    Example:
        >>> gradients = torch.tensor([[[1.0, -2.0]]])
        >>> context, byzantine = AttackContext.standalone(gradients), torch.tensor([[True]])
        >>> [Replay(delay=2)(t * gradients, byzantine, context).tolist() for t in range(1, 5)]
        [[[[1.0, -2.0]]], [[[1.0, -2.0]]], [[[1.0, -2.0]]], [[[2.0, -4.0]]]]
    """

    def __init__(self, delay: int = 10) -> None:
        self.delay = check_int("delay", delay, low=1)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, n, d]; see `Attack.corrupt`."""
        if context.workers is not None:
            raise ValueError("replay needs every worker in every round, got a cohort (cohort_size)")
        rounds = _count(context, "replay_rounds")
        written = rounds % self.delay  # [E], the slot of this round, which still holds that of `delay` ago
        read = torch.where(rounds < self.delay, 0, written)
        submitted = gradients.clone()
        # A slot at a time, so that a round touches one n d and not all of them.
        for slot in read[rounds > 0].unique().tolist():
            envs = ((read == slot) & (rounds > 0)).nonzero()[:, 0]
            kept = context.memory.of(envs)
            submitted[envs] = kept.read(f"replay_{slot}", *gradients.shape[1:], dtype=gradients.dtype)
        for slot in written.unique().tolist():
            envs = (written == slot).nonzero()[:, 0]
            context.memory.of(envs).write(f"replay_{slot}", gradients[envs])
        return submitted


@registry.built_in("rop")
class RelocatedOrthogonalPerturbation(Attack):
    """Relocated orthogonal perturbation of Ozfatura et al. 2023, "Byzantines can also learn from history"
    (https://arxiv.org/abs/2208.09894). Byzantine workers submit the server's last update, moved at an angle
    to it.

    With u for the last update and m for the honest mean, they submit ``location u + (1 - location) m + z p``.
    The unit vector p is at the ``angle`` to ``r = reference u + (1 - reference) m``, in the plane of r and
    (1, ..., 1). Where there is no last update yet, u is zero and r is m. Centered clipping takes u as its
    center, so it does not clip what is less than its radius away from it. The attackers know the honest mean
    and the last update.

    Location, reference and angle have the defaults of the authors' library
    (https://github.com/CRYPTO-KU/FL-Byzantine-Library), which takes the z of ``alie`` unless told otherwise
    (``z=None`` here).

    Args:
        z: The length of the perturbation, in the units of gradients. Any finite number; None for alie's z.
        location: From 0 (the honest mean) to 1 (the last update).
        reference: From 0 (the honest mean) to 1 (the last update).
        angle: Degrees, any finite number; 90 and 270 are orthogonal.

    Example:
        >>> gradients = torch.tensor([[[4.0, 0.0], [0.0, 0.0]]])
        >>> context = AttackContext.standalone(gradients)
        >>> context.previous_update = torch.tensor([[3.0, 0.0]])
        >>> RelocatedOrthogonalPerturbation(z=2)(gradients, torch.tensor([[False, True]]), context)[0, 1]
        tensor([ 3., -2.])
    """

    reads_own = False

    def __init__(
        self, z: float | None = 1.0, location: float = 1.0, reference: float = 0.9, angle: float = 270.0
    ) -> None:
        self.z = None if z is None else check_real("z (unless None)", z)
        self._alie = ALittleIsEnough()
        self.location = check_real("location", location, low=0, high=1)
        self.reference = check_real("reference", reference, low=0, high=1)
        self.angle = check_real("angle", angle)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, 1, d]; see `Attack.corrupt`."""
        mean = honest_mean(at_least_single(gradients), byzantine)
        update = context.previous_update.to(mean.dtype)
        known = update.any(-1, keepdim=True)
        along = unit_rows(torch.where(known, self.reference * update + (1 - self.reference) * mean, mean))
        across = unit_rows(1 - along.sum(-1, keepdim=True) * along)
        angle = math.radians(self.angle)
        perturbation = math.sin(angle) * across + math.cos(angle) * along
        length = self._alie.z_of(byzantine, mean.dtype)[:, None] if self.z is None else self.z
        return (self.location * update + (1 - self.location) * mean + length * perturbation)[:, None]


def _honest_worker(byzantine: Tensor, rank: int) -> Tensor:
    """The number [E] of the honest worker with this rank, or of the last one, for bool [E, n]."""
    honest_first = byzantine.to(torch.uint8).argsort(dim=1, stable=True)
    last = (~byzantine).sum(1).sub(1).clamp_min(0)
    return honest_first.gather(1, last.clamp_max(rank)[:, None])[:, 0]


def _count(context: AttackContext, name: str) -> Tensor:
    """In how many rounds [E] of the episode the attack has acted before; this one counts from now on."""
    rounds = context.memory.read(name, dtype=torch.int64)
    context.memory.write(name, rounds + 1)
    return rounds
