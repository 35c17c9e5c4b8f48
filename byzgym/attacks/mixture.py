"""The attack mixture: a random point of a large space of attacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from byzgym.attacks.base import AttackContext, DataPoisoning
from byzgym.attacks.registry import registry
from byzgym.numerics.distances import row_norms, unit_rows
from byzgym.numerics.moments import honest_mean, honest_moments
from byzgym.validation import check_real, shown

PARTS = 3
SIZE = 31
"""Numbers in a point: 11 of the whole attack, and 10 of each of the two sums that it may use in turn."""


@registry.built_in("mixture")
class Mixture(DataPoisoning):
    """A random attack, drawn anew for each episode: a sum of components, with a target and a timetable.

    An attack is a point of the unit cube with 31 sides; each side decides one thing. Agents are trained
    against random points, and an attacker that adapts can search the cube. It knows all honest gradients
    and the last update.

    *The sum* (sides 11 to 20, and 21 to 30 for a second one). One to three of these components, each with a
    factor of either sign from 0.1 to 10: ``own`` (what the worker would honestly send), ``mean`` (of the
    honest gradients), ``std`` (their standard deviation), ``sign`` (the sign of the mean times the
    deviation), ``own_noise`` and ``common_noise`` (normal, drawn in each round), ``direction`` (normal, the
    same throughout), ``previous`` (the last update), ``mimic`` (what one honest worker sends), ``copies``
    (each copies a random honest worker), ``stale`` (the honest mean of up to ten rounds ago) and ``spikes``
    (a hundredth of the coordinates). Noise, directions and spikes have the norm of the honest mean.

    *The target* (sides 6 and 7). All coordinates, or only some: random ones, a contiguous block, or every
    k-th. The others are those of the worker's own gradient.

    *Sizes* (sides 8 to 10). Workers may differ in size, by a factor of up to 10. The norm may be made that of
    the honest mean. A tenth of the attacks are 1 to 10,000 times larger.

    *Labels* (sides 0 and 1). In a quarter of the attacks Byzantine workers train on wrong labels (reversed,
    shifted, all the same, or permuted), and ``own`` is the gradient on these. Mostly they send nothing else.

    *The timetable* (sides 2 to 5). The attack may begin later (up to round 60). It may be on and off in turn,
    for 1 to 20 rounds, all workers together or one after the other. It may change to the second sum in a
    round from 10 to 80. Workers that are not attacking send their own gradients.

    Args:
        point: 31 numbers from 0 to 1; None draws them for each episode.

    Example:
        >>> gradients = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
        >>> byzantine = torch.tensor([[False, False, True]])
        >>> Mixture()(gradients, byzantine, AttackContext.standalone(gradients, seed=1)).shape
        torch.Size([1, 3, 2])
    """

    components: ClassVar[tuple[str, ...]] = (
        "own", "mean", "std", "sign", "own_noise", "common_noise",
        "direction", "previous", "mimic", "copies", "stale", "spikes",
    )  # fmt: skip

    def __init__(self, point: Sequence[float] | np.ndarray | Tensor | None = None) -> None:
        self.point = None
        if point is not None:
            numbers = point.tolist() if isinstance(point, np.ndarray | Tensor) else point
            if isinstance(numbers, str) or not isinstance(numbers, Sequence) or len(numbers) != SIZE:
                raise ValueError(f"point must be {SIZE} numbers from 0 to 1, got {shown(point)}")
            self.point = [check_real("point (each)", number, low=0, high=1) for number in numbers]

    def poison(
        self, x: Tensor, y: Tensor, byzantine: Tensor, context: AttackContext
    ) -> tuple[Tensor, Tensor]:
        """Return the inputs unchanged, and labels [E, n, B], wrong for some Byzantine workers."""
        point = self._points(byzantine, context)
        lies = byzantine & _relabels(point)[:, None] & _active(point, byzantine, context.round)
        y = y.clone()
        for env in lies.any(1).nonzero()[:, 0].tolist():
            y[env, lies[env]] = _labels(point[env], context.num_classes)[y[env, lies[env]]]
        return x, y

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, n, d]; see `Attack.corrupt`."""
        point = self._points(byzantine, context)
        factors = self._factors(point, context.round).to(gradients.dtype)[..., None, None]
        mean = honest_mean(gradients, byzantine)
        norm = row_norms(mean[:, None])[..., None].to(mean.dtype)  # [E, 1, 1]
        common = torch.zeros_like(mean)[:, None]  # [E, 1, d], what all send; cheap beside rows of their own
        own: list[tuple[Tensor, Tensor]] = []
        for number, name in enumerate(self.components):
            factor = factors[:, number] * (norm if name in _UNIT else 1)
            used = factor.flatten() != 0
            if name != "own" and used.any():
                part = _MAKERS[name](gradients, byzantine, mean, context, used)
                if part.shape[1] == 1:
                    common = common + factor * part
                else:
                    own.append((factor, part))
        _remember_mean(mean, context)
        submitted = torch.addcmul(common, gradients, factors[:, self.components.index("own")])
        for factor, part in own:
            submitted.addcmul_(factor, part)
        submitted *= self._scales(point, submitted, norm)
        self._put_back(submitted, gradients, byzantine, point, context)
        return submitted

    def _scales(self, point: Tensor, submitted: Tensor, norm: Tensor) -> Tensor:
        """By how much rows [E, n, d] are made longer, [E, n, 1]; ``norm`` [E, 1, 1] is that of the mean."""
        sizes = _sizes(point, submitted.shape[1])[..., None].to(submitted.dtype)
        same_norm = point[:, 9] < 0.25
        if same_norm.any():
            lengths = row_norms(submitted[same_norm])[..., None]
            factors = torch.where(lengths > 0, norm[same_norm] / lengths, 0).clamp(max=1e30)
            sizes[same_norm] *= factors.to(sizes.dtype)
        return sizes

    def _put_back(
        self, submitted: Tensor, gradients: Tensor, byzantine: Tensor, point: Tensor, context: AttackContext
    ) -> None:
        """Put own gradients back where a worker does not attack now, and in coordinates not attacked."""
        partly = (point[:, 6] < 0.3).nonzero()[:, 0]
        if len(partly):
            target = _target(point, gradients.shape[2], context)[partly]  # [m, 1, d]
            submitted[partly] = torch.where(target, submitted[partly], gradients[partly].to(submitted))
        idle = (byzantine & ~_active(point, byzantine, context.round)).nonzero(as_tuple=True)
        if len(idle[0]):
            submitted[idle] = gradients[idle].to(submitted)

    def _points(self, byzantine: Tensor, context: AttackContext) -> Tensor:
        """The points [E, SIZE] of the present episodes."""
        point = context.memory.read("point", SIZE)
        new = ~context.memory.read("has_point", dtype=torch.bool)
        if new.any():
            point = torch.where(new[:, None], self._draw_points(byzantine, context, new), point)
            context.memory.write("point", point)
            context.memory.write("has_point", torch.ones_like(new))
        return point

    def _draw_points(self, byzantine: Tensor, context: AttackContext, where: Tensor) -> Tensor:
        """New points [E, SIZE]; those that are not needed, ``where`` [E] is False, are ignored."""
        if self.point is not None:
            return torch.tensor(self.point, device=where.device).expand(len(where), -1)
        return context.uniform(SIZE, where=where)

    def _factors(self, point: Tensor, round: Tensor) -> Tensor:
        """The factor [E, components] of each component in this round."""
        changed = (point[:, 5] < 0.3) & (round >= 10 + (point[:, 5] / 0.3 * 70).long())
        sum_ = torch.where(changed[:, None], point[:, 21:31], point[:, 11:21])  # [E, 10]
        count = 1 + (sum_[:, 0] > 0.5).long() + (sum_[:, 0] > 0.8)
        kind, exponent, sign = sum_[:, 1:].view(-1, PARTS, 3).unbind(2)  # each [E, PARTS]
        number = (kind * len(self.components)).long().clamp(max=len(self.components) - 1)
        factor = 10 ** (2 * exponent - 1) * torch.where(sign < 0.35, 1, -1)
        factor = factor * (torch.arange(PARTS, device=point.device) < count[:, None])
        factors = torch.zeros(len(point), len(self.components), device=point.device)
        factors.scatter_add_(1, number, factor)
        honest_on_lies = torch.zeros_like(factors)
        honest_on_lies[:, self.components.index("own")] = 1
        plain = _relabels(point) & (point[:, 0] < 0.18)
        return torch.where(plain[:, None], honest_on_lies, factors)


def point_of(*parts: tuple[str, float], labels: float | None = None) -> list[float]:
    """The point of an attack that all workers play from the first round on, in all coordinates.

    Args:
        parts: One to three components with their factors, which have a size from 0.1 to 10.
        labels: From 0 to 1, the wrong labels on which Byzantine workers train and do nothing else; see
            `Mixture`. Without parts only.

    Example:
        Inner product manipulation, and reversed labels:

        >>> attacks = Mixture(point_of(("mean", -0.5))), Mixture(point_of(labels=0.1))
    """
    point = [0.9] * SIZE  # no timetable, no target, no sizes
    if labels is not None:
        point[:2] = 0.1, labels
    for start in (11, 21) if parts else ():
        point[start] = (0.2, 0.6, 0.9)[len(parts) - 1]
        for place, (name, factor) in enumerate(parts):
            side = start + 1 + PARTS * place
            point[side] = (Mixture.components.index(name) + 0.5) / len(Mixture.components)
            point[side + 1] = (math.log10(abs(factor)) + 1) / 2
            point[side + 2] = 0.1 if factor > 0 else 0.9
    return point


Maker = Callable[[Tensor, Tensor, Tensor, AttackContext, Tensor], Tensor]
"""A component [E, 1 or n, d] from the gradients [E, n, d], who is Byzantine [E, n], the honest mean [E, d],
the context, and which environments use it [E]."""


def _direction(context: AttackContext, dimension: int, used: Tensor) -> Tensor:
    """Normal numbers [E, d] that stay the same throughout an episode, where they are used, bool [E]."""
    direction = context.memory.read("direction", dimension)
    new = used & ~direction.any(1)
    if new.any():
        direction = torch.where(new[:, None], context.normal(dimension, where=new), direction)
        context.memory.write("direction", direction)
    return direction


def _std(gradients: Tensor, byzantine: Tensor, used: Tensor) -> Tensor:
    std = torch.zeros_like(gradients[:, 0])
    std[used] = honest_moments(gradients[used], byzantine[used])[1]
    return std[:, None]


def _honest(byzantine: Tensor, wish: Tensor) -> Tensor:
    """An honest worker [E, m] for each of the wishes [E, m], from 0 to 1; the first worker where none is."""
    count = (~byzantine).sum(1, keepdim=True)
    rank = (wish * count).long().clamp(max=(count - 1).clamp(min=0))
    honest_first = byzantine.to(torch.uint8).argsort(dim=1, stable=True)
    return honest_first.gather(1, rank)


def _mimic(gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
    wish = context.memory.read("point", SIZE)[:, 7:8]
    rows = torch.arange(len(gradients), device=gradients.device)[:, None]
    return gradients[rows, _honest(byzantine, wish)]


def _copies(gradients: Tensor, byzantine: Tensor, context: AttackContext, used: Tensor) -> Tensor:
    wish = context.uniform(byzantine.shape[1], where=used)
    rows = torch.arange(len(gradients), device=gradients.device)[:, None]
    return gradients[rows, _honest(byzantine, wish)]


def _spikes(gradients: Tensor, context: AttackContext, used: Tensor) -> Tensor:
    direction = _direction(context, gradients.shape[2], used)
    count = max(1, gradients.shape[2] // 100)
    smallest = direction.abs().topk(count, dim=1).values[:, -1:]
    return unit_rows(torch.where(direction.abs() >= smallest, direction.sign(), 0))[:, None]


def _remember_mean(mean: Tensor, context: AttackContext) -> None:
    """Keep the honest mean [E, d] of every tenth round."""
    due = context.round % 10 == 0
    if due.any():
        kept = context.memory.read("stale", mean.shape[1], dtype=mean.dtype)
        context.memory.write("stale", torch.where(due[:, None], mean, kept))


_UNIT = frozenset({"own_noise", "common_noise", "direction", "spikes"})
_MAKERS: dict[str, Maker] = {
    "own": lambda v, b, m, c, used: v,
    "mean": lambda v, b, m, c, used: m[:, None],
    "std": lambda v, b, m, c, used: _std(v, b, used),
    "sign": lambda v, b, m, c, used: m.sign()[:, None] * _std(v, b, used),
    "own_noise": lambda v, b, m, c, used: unit_rows(c.normal(*v.shape[1:], where=used)),
    "common_noise": lambda v, b, m, c, used: unit_rows(c.normal(1, v.shape[2], where=used)),
    "direction": lambda v, b, m, c, used: unit_rows(_direction(c, v.shape[2], used))[:, None],
    "previous": lambda v, b, m, c, used: c.previous_update[:, None],
    "mimic": lambda v, b, m, c, used: _mimic(v, b, c),
    "copies": lambda v, b, m, c, used: _copies(v, b, c, used),
    "stale": lambda v, b, m, c, used: c.memory.read("stale", m.shape[1], dtype=m.dtype)[:, None],
    "spikes": lambda v, b, m, c, used: _spikes(v, c, used),
}


def _relabels(point: Tensor) -> Tensor:
    return point[:, 0] < 0.25


def _labels(point: Tensor, num_classes: int) -> Tensor:
    """The label [C] that each label becomes."""
    labels, kind = torch.arange(num_classes, device=point.device), float(point[1]) * 4
    detail = kind % 1
    if kind < 1:
        return num_classes - 1 - labels
    if kind < 2:
        return (labels + 1 + int(detail * (num_classes - 1))) % num_classes
    if kind < 3:
        return torch.full_like(labels, int(detail * num_classes))
    generator = torch.Generator(point.device).manual_seed(int(detail * 2**31))
    return torch.randperm(num_classes, generator=generator, device=point.device)


def _active(point: Tensor, byzantine: Tensor, round: Tensor) -> Tensor:
    """Which workers attack in this round if they are Byzantine, bool [E, n]."""
    start = torch.where(point[:, 2] < 0.3, (60 ** (point[:, 2] / 0.3)).long(), 0)
    period = torch.where(point[:, 3] < 0.3, 1 + (20 * point[:, 3] / 0.3).long(), 0)[:, None]
    worker = torch.arange(byzantine.shape[1], device=byzantine.device)
    phase = torch.where((point[:, 4] < 0.5)[:, None], worker, 0)
    on = (period == 0) | ((round[:, None] // period.clamp(min=1) + phase) % 2 == 0)
    return on & (round >= start)[:, None]


def _sizes(point: Tensor, num_workers: int) -> Tensor:
    """By how much each worker's submission is larger [E, n]."""
    worker = torch.arange(num_workers, device=point.device)
    spread = torch.where(point[:, 8] < 0.3, point[:, 8] / 0.3, 0)[:, None]
    different = 10 ** (spread * ((worker * 0.618) % 1 - 0.5) * 2)
    loud = torch.where(point[:, 10] < 0.1, 10 ** (4 * point[:, 10] / 0.1), 1)
    return different * loud[:, None]


def _target(point: Tensor, dimension: int, context: AttackContext) -> Tensor:
    """Which coordinates are attacked, bool [E, 1, d], where not all are."""
    kind, share = point[:, 6:7] * 10, 0.02 + 0.98 * point[:, 7:8]
    coordinates = torch.arange(dimension, device=point.device)
    random = 0.5 + 0.5 * torch.erf(_direction(context, dimension, kind[:, 0] < 1) / 2**0.5) < share
    block = (coordinates / dimension - kind % 1) % 1 < share
    every = coordinates % (1 + (10 * (1 - share)).long()) == 0
    return torch.where(kind < 1, random, torch.where(kind < 2, block, every))[:, None]
