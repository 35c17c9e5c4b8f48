"""Backdoors: the model is to give one label to all inputs that bear a trigger, and to do well on the others.

Byzantine workers put the trigger on some samples of their batches and give them the target label. The
simulation measures on triggered test samples how often that succeeds (the metric ``attack_success_rate``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from byzgym.attacks.base import AttackContext, DataPoisoning
from byzgym.attacks.registry import registry
from byzgym.numerics.distances import row_norms
from byzgym.validation import check_int, check_real

FRACTION = 20 / 64
"""Of a batch: what the code of Xie et al. 2020 (DBA) poisons on MNIST, as did Bagdasaryan et al. 2020."""


class Triggered(DataPoisoning):
    """A backdoor: some samples of Byzantine workers' batches bear a trigger and the target label.

    A subclass defines `parts`, and may change the gradients in `corrupt`. A worker needs to know its own data
    only.

    Args:
        target: The label that triggered samples get, at least 0 and less than the number of classes.
        value: What the trigger consists of, in units of the inputs, a number that float32 can hold; None for
            the largest number in the training data, or in the worker's batch where the context lacks it.
        fraction: How much of a batch is triggered, from 0 to 1, rounded, but at least one sample above 0.
    """

    def __init__(self, target: int, value: float | None, fraction: float) -> None:
        largest = torch.finfo(torch.float32).max
        self.target = check_int("target", target, low=0)
        self.value = None if value is None else check_real("value", value, low=-largest, high=largest)
        self.fraction = check_real("fraction", fraction, low=0, high=1)

    @abstractmethod
    def parts(self, shape: Sequence[int]) -> list[Tensor]:
        """Where the trigger is in an input of this shape: a bool tensor of the shape for each part of it.

        Byzantine workers take the parts in turn.

        Raises:
            ValueError: If it does not fit.
        """

    def poison(
        self, x: Tensor, y: Tensor, byzantine: Tensor, context: AttackContext
    ) -> tuple[Tensor, Tensor]:
        """Return inputs [E, n, B, ...] and labels [E, n, B], some of them triggered for Byzantine workers.

        Raises:
            ValueError: If there is no such label, or the trigger does not fit into the inputs.
        """
        check_int("target", self.target, low=0, high=context.num_classes - 1)
        parts = torch.stack(self.parts(x.shape[3:])).to(x.device)  # [k, ...]
        count = max(1, round(self.fraction * x.shape[2])) if self.fraction > 0 else 0
        env, worker = byzantine.nonzero(as_tuple=True)
        own = x[env, worker]  # [m, B, ...]
        place = parts[(byzantine.cumsum(1)[env, worker] - 1) % len(parts)]  # [m, ...]
        told = context.largest_input if self.value is None else self.value
        values = own.flatten(1).amax(1) if told is None else own.new_full((len(own),), told)
        first = own[:, :count]  # the samples of a batch are in random order
        x, y = x.clone(), y.clone()
        x[env, worker, :count] = torch.where(place[:, None], values.view(-1, *[1] * (x.dim() - 2)), first)
        y[env, worker, :count] = self.target
        return x, y

    def trigger(self, x: Tensor, largest_input: float | None = None) -> Tensor:
        """Inputs [N, ...] with the whole trigger, with which the success is measured.

        Where ``value`` is None, it consists of the largest number in the training data, or in these inputs
        where that is not told.
        """
        place = torch.stack(self.parts(x.shape[1:])).any(0).to(x.device)
        told = largest_input if self.value is None else self.value
        return torch.where(place, x.amax() if told is None else x.new_tensor(told), x)


@registry.built_in("backdoor")
class Backdoor(Triggered):
    """Pattern backdoor of Gu et al. 2017, "BadNets" (https://arxiv.org/abs/1708.06733). Byzantine workers
    train on some samples that bear a trigger and the target label.

    The trigger is that of Baruch et al. 2019, "A little is enough" (https://arxiv.org/abs/1902.06156): the
    top left ``size`` times ``size`` pixels at full intensity, in all channels. Inputs that are no images have
    it in their first ``size`` numbers. It is in the first samples of each batch, which are random ones. A
    worker needs to know its own data only.

    Args:
        target: The label that triggered samples get, at least 0 and less than the number of classes.
        size: Of the trigger, at least 1; less than the inputs are high, wide or long.
        value: What the trigger consists of, in units of the inputs, a number that float32 can hold; None for
            the largest number in the training data.
        fraction: How much of a batch is triggered, from 0 to 1, rounded, but at least one sample above 0.

    Example:
        >>> context = AttackContext.standalone(torch.zeros(1, 1, 5), num_classes=10)
        >>> x, y = torch.zeros(1, 1, 3, 1, 2, 3), torch.tensor([[[1, 2, 3]]])
        >>> x, y = Backdoor(target=7, size=1, value=1.0).poison(x, y, torch.tensor([[True]]), context)
        >>> x[0, 0, :2, 0].tolist(), y.tolist()
        ([[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]], [[[7, 2, 3]]])
    """

    def __init__(
        self, target: int = 0, size: int = 5, value: float | None = None, fraction: float = FRACTION
    ) -> None:
        super().__init__(target, value, fraction)
        self.size = check_int("size", size, low=1)

    def parts(self, shape: Sequence[int]) -> list[Tensor]:
        """See `Triggered.parts`."""
        _check_fit("size", self.size, min(shape[-2:]) - 1, shape)
        place = torch.zeros(*shape, dtype=torch.bool)
        corner = place[..., : self.size]
        (corner if len(shape) == 1 else corner[..., : self.size, :]).fill_(True)
        return [place]


@registry.built_in("distributed_backdoor")
class DistributedBackdoor(Triggered):
    """DBA of Xie et al. 2020, "DBA: Distributed backdoor attacks against federated learning"
    (https://openreview.net/forum?id=rkgyS0VFvr). The trigger is divided: each Byzantine worker trains on a
    part of it, and the model is attacked with the whole.

    The parts are four rows of ``size`` pixels: two, ``gap`` pixels apart, at the top left, ``shift`` pixels
    from the borders, and two more, ``gap`` rows further down. The paper has the sizes, gaps and shifts
    (4, 2, 0) on MNIST and (6, 3, 0) on CIFAR-10. The Byzantine workers take the parts in turn. Inputs that
    are no images have parts of ``size`` numbers, one after the other from the number ``shift`` on.

    In the paper's multiple-shot attack workers submit the gradients of such data; in its single-shot attack
    they are 100 times as long. The authors' code (https://github.com/AI-secure/DBA) triggers 20 of 64 samples
    on MNIST, as here by default, and 5 of 64 on CIFAR-10. FLPoison has (8, 2, 0), and always a factor of 100.
    A worker needs to know its own data, and its place among the attackers.

    Args:
        target: The label that triggered samples get, at least 0 and less than the number of classes.
        size: Pixels in a part, at least 1; None for 4, or as many as fit.
        gap: Pixels, at least 0.
        shift: Pixels, at least 0.
        value: As in ``backdoor``.
        fraction: As in ``backdoor``.
        factor: Byzantine workers submit so many times their gradients; any finite number.

    Example:
        >>> parts = DistributedBackdoor(size=2, gap=1).parts((1, 4, 6))
        >>> sum((k + 1) * place.int() for k, place in enumerate(parts))
        tensor([[[1, 1, 0, 2, 2, 0],
                 [0, 0, 0, 0, 0, 0],
                 [3, 3, 0, 4, 4, 0],
                 [0, 0, 0, 0, 0, 0]]], dtype=torch.int32)
    """

    def __init__(
        self,
        target: int = 0,
        size: int | None = None,
        gap: int = 2,
        shift: int = 0,
        value: float | None = None,
        fraction: float = FRACTION,
        factor: float = 1.0,
    ) -> None:
        super().__init__(target, value, fraction)
        self.size = None if size is None else check_int("size (unless None)", size, low=1)
        self.gap = check_int("gap", gap, low=0)
        self.shift = check_int("shift", shift, low=0)
        self.factor = check_real("factor", factor)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, n, d]; see `Attack.corrupt`."""
        return gradients if self.factor == 1 else gradients * self.factor

    def parts(self, shape: Sequence[int]) -> list[Tensor]:
        """See `Triggered.parts`."""
        image, gap, shift = len(shape) > 1, self.gap, self.shift
        room = (shape[-1] - shift - gap) // 2 if image else (shape[-1] - shift) // 4
        if room < 1 or (image and shift + gap + 1 >= shape[-2]):
            raise ValueError(
                f"gap and shift must leave room for the trigger in inputs of shape {tuple(shape)}, got "
                f"gap={gap} and shift={shift}"
            )
        size = min(4, room) if self.size is None else self.size
        _check_fit("size", size, room, shape)
        parts = []
        for number in range(4):
            place = torch.zeros(*shape, dtype=torch.bool)
            if image:
                row, column = divmod(number, 2)
                start = shift + column * (size + gap)
                place[..., shift + row * (1 + gap), start : start + size] = True
            else:
                place[shift + number * size : shift + (number + 1) * size] = True
            parts.append(place)
        return parts


@registry.built_in("model_replacement")
class ModelReplacement(Backdoor):
    """Model replacement of Bagdasaryan et al. 2020, "How to backdoor federated learning"
    (https://arxiv.org/abs/1807.00459). Byzantine workers train on backdoored data and submit a multiple of
    the gradient, so that the server's mean is moved to their model.

    Near convergence the other submissions cancel out, and n times the gradient of one attacker makes the
    model what it would be after a step of this attacker alone. That is the paper's factor n / eta with an eta
    (the learning rate of federated averaging) of 1. Where there are m attackers, each sends its share, n / m
    times its gradient. The authors' code has the factor 100. With a ``norm`` it is train-and-scale: they
    submit as long a row as passes for honest. The term of constrain-and-scale, the distance to the server's
    model, has no gradient at that model, where gradients are computed here. A worker needs to know its own
    data and n, and m where ``factor`` is None.

    Args:
        target: As in ``backdoor``.
        size: As in ``backdoor``.
        value: As in ``backdoor``.
        fraction: As in ``backdoor``.
        factor: Any finite number; None for n / m.
        norm: Of the submission, greater than 0, in place of a factor; None for none.

    Example:
        >>> gradients = torch.tensor([[[1.0, -2.0], [0.0, 0.0]]])
        >>> byzantine = torch.tensor([[True, False]])
        >>> ModelReplacement()(gradients, byzantine, AttackContext.standalone(gradients))
        tensor([[[ 2., -4.],
                 [ 0.,  0.]]])
    """

    def __init__(
        self,
        target: int = 0,
        size: int = 5,
        value: float | None = None,
        fraction: float = FRACTION,
        factor: float | None = None,
        norm: float | None = None,
    ) -> None:
        super().__init__(target, size, value, fraction)
        self.factor = None if factor is None else check_real("factor (unless None)", factor)
        self.norm = None if norm is None else check_real("norm (unless None)", norm, above=0)
        if factor is not None and norm is not None:
            raise ValueError(f"norm must be None where there is a factor, got factor={factor}, norm={norm}")

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, n, d]; see `Attack.corrupt`."""
        if self.factor is not None:
            return gradients * self.factor
        if self.norm is not None:
            lengths = row_norms(gradients)[..., None]
            return gradients * torch.where(lengths > 0, self.norm / lengths, 0).to(gradients.dtype)
        share = byzantine.shape[1] / byzantine.sum(1).clamp_min(1)
        return gradients * share.to(gradients.dtype)[:, None, None]


@registry.built_in("neurotoxin")
class Neurotoxin(Backdoor):
    """Neurotoxin of Zhang et al. 2022, "Neurotoxin: Durable backdoors in federated learning"
    (https://arxiv.org/abs/2206.10341). Byzantine workers train on backdoored data and leave out of the
    gradient the coordinates that honest workers move most, so that these do not undo the backdoor.

    What honest workers move is told by the server's last update, as in the paper's algorithm. The coordinates
    that are largest there, in size, are zero in the submission; the others are those of the gradient. In the
    first round, without a last update, none is left out. (The authors' code and FLPoison compute a gradient
    of clean data of their own instead.) A worker needs to know its own data and the last update, which it can
    tell from the server's parameters. The authors' code can also choose the coordinates layer by layer;
    FLPoison keeps the smallest ones by value and not by size, and clips the submission.

    Args:
        target: As in ``backdoor``.
        size: As in ``backdoor``.
        value: As in ``backdoor``.
        fraction: As in ``backdoor``.
        kept: Which share of the coordinates is kept, greater than 0 and at most 1, rounded down. The authors'
            code runs with 0.95 to 0.99, FLPoison with 0.1.

    Example:
        >>> gradients = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
        >>> context = AttackContext.standalone(gradients)
        >>> context.previous_update = torch.tensor([[0.0, -9.0, 5.0, 1.0]])
        >>> Neurotoxin(kept=0.5)(gradients, torch.tensor([[True]]), context)
        tensor([[[1., 0., 0., 4.]]])
    """

    def __init__(
        self,
        target: int = 0,
        size: int = 5,
        value: float | None = None,
        fraction: float = FRACTION,
        kept: float = 0.95,
    ) -> None:
        super().__init__(target, size, value, fraction)
        self.kept = check_real("kept", kept, high=1, above=0)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, n, d]; see `Attack.corrupt`."""
        moved = context.previous_update.abs()  # [E, d]
        dropped = moved.shape[1] - int(self.kept * moved.shape[1])
        if not dropped:
            return gradients
        heavy = torch.zeros_like(moved, dtype=torch.bool).scatter_(1, moved.topk(dropped).indices, True)
        heavy &= moved.any(1, keepdim=True)
        return gradients.masked_fill(heavy[:, None], 0)


def _check_fit(name: str, size: int, room: int, shape: Sequence[int]) -> None:
    if size > room:
        allowed = f"from 1 to {room}" if room else "absent: no trigger fits"
        raise ValueError(f"{name} must be {allowed} for inputs of shape {tuple(shape)}, got {size}")
