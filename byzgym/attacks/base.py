"""What an attack is, and what it is given."""

from __future__ import annotations

import inspect
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from byzgym.memory import Memory
from byzgym.validation import check_tensor


@dataclass(eq=False, repr=False)
class AttackContext:
    """What attacks and role functions may know of a round, for E environments.

    ``memory`` is the only place to keep anything until the next round. It is empty when an episode begins and
    part of snapshots. ``generators`` are the only source of randomness.
    """

    round: Tensor  # [E] int64, rounds since the episode began
    generators: Sequence[torch.Generator]  # E
    learning_rate: Tensor  # [E], the server's
    previous_update: Tensor  # [E, d], what the server applied in the last round; zero in round 0
    num_classes: int = 2
    largest_input: float | None = None  # in the training data: full intensity, which every worker knows
    # What the server makes of submissions, [E, ..., n, d] -> [E, ..., d], for the knowledge "rule": its rule
    # (the mean if it has none, or one with a memory or data), of means over groups where it sees no more.
    rule: Callable[[Tensor], Tensor] | None = None
    # The server's quasi-validation samples x [E, q, ...] and y [E, q], for the knowledge "qv": those that it
    # has when the workers submit. It may draw new ones before it judges what they submit (`qv_period`).
    qv: tuple[Tensor, Tensor] | None = None
    # Other samples from the same source, x [E, q, ...] and y [E, q], drawn anew in each round, for the
    # knowledge "qv_distribution".
    qv_distribution: tuple[Tensor, Tensor] | None = None
    qv_labels: Tensor | None = None  # the labels alone, [E, q] in ascending order, for "qv_labels"
    memory: Memory = field(default=None)  # type: ignore[assignment]  # a new one where None
    # Who the rows are, where not everybody takes part in every round; None where row i is worker i.
    workers: Tensor | None = None  # [E, n] int64

    def __post_init__(self) -> None:
        if self.memory is None:
            self.memory = Memory(len(self.generators), self.round.device)

    def numbers(self, num_rows: int) -> Tensor:
        """The numbers [E, n], int64, of the workers whose rows these are, to remember a worker by."""
        if self.workers is not None:
            return self.workers
        return torch.arange(num_rows, device=self.round.device).expand(len(self.generators), -1)

    @classmethod
    def standalone(cls, gradients: Tensor, seed: int = 0, num_classes: int = 2) -> AttackContext:
        """A context for use without a simulation: round 0, learning rate 1, an empty memory.

        Only the shape [E, n, d], type and device of the gradients are used. Environment e has the seed
        ``seed + e``.
        """
        _check_gradients(gradients)
        num_envs, _, dimension = gradients.shape
        device = gradients.device
        return cls(
            round=torch.zeros(num_envs, dtype=torch.int64, device=device),
            generators=[torch.Generator(device).manual_seed(seed + e) for e in range(num_envs)],
            learning_rate=gradients.new_ones(num_envs),
            previous_update=gradients.new_zeros(num_envs, dimension),
            num_classes=num_classes,
        )

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32, where: Tensor | None = None) -> Tensor:
        """Standard normal numbers of shape [E, *shape], row e from generator e.

        ``where`` [E], bool, says which environments draw (all where None). The others get zeros, and their
        generators do not move.
        """
        return self._draw(Tensor.normal_, shape, dtype, where)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32, where: Tensor | None = None) -> Tensor:
        """Numbers uniform in [0, 1) of shape [E, *shape], row e from generator e; see `normal`."""
        return self._draw(Tensor.uniform_, shape, dtype, where)

    def integers(self, high: int, *shape: int, where: Tensor | None = None) -> Tensor:
        """Integers uniform in 0 .. high - 1, int64 of shape [E, *shape]; see `normal`."""
        return self._draw(partial(Tensor.random_, to=high), shape, torch.int64, where)

    def _draw(
        self, fill: Callable[..., Tensor], shape: Sequence[int], dtype: torch.dtype, where: Tensor | None
    ) -> Tensor:
        out = torch.zeros(len(self.generators), *shape, dtype=dtype, device=self.round.device)
        drawing = [True] * len(out) if where is None else where.tolist()
        for row, generator, draws in zip(out, self.generators, drawing, strict=True):
            if draws:
                fill(row, generator=generator)
        return out


class Attack:
    """Turns honest gradients into submitted ones.

    Any callable with the signature of `__call__` is an attack. A subclass is shorter: it defines `corrupt`,
    which may return one row for all workers, and must not write into its input. In exchange the simulation
    does not copy the gradients for it.

    Attributes:
        knowledge: What of the server the attack needs: a subset of {"rule", "qv", "qv_distribution",
            "qv_labels"}. `AttackContext` says what they are; what is not asked for is None there.
        scope: "workers": only Byzantine rows change, whatever `corrupt` returns. "transmission": any row
            changes, because the attack corrupts what is sent. No worker then counts as Byzantine, though
            `corrupt` is still told who was drawn to be.
        reads_own: Whether the attack reads what Byzantine workers would honestly send. If not, the simulation
            need not compute it, and these rows may hold anything, even NaN. A subclass that overrides
            `corrupt` or `__call__` does not inherit False; it has to say so again.

    Example:
        >>> class Reversed(Attack):
        ...     def corrupt(self, gradients, byzantine, context):
        ...         return -gradients
        >>> gradients = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
        >>> Reversed()(gradients, torch.tensor([[False, True]]), AttackContext.standalone(gradients))
        tensor([[[ 1.,  2.],
                 [-3., -4.]]])
    """

    knowledge: frozenset[str] = frozenset()
    scope: str = "workers"
    reads_own: bool = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # The new method may read those rows, whatever the class above promised.
        if {"corrupt", "__call__"} & vars(cls).keys() and "reads_own" not in vars(cls):
            cls.reads_own = True

    def __repr__(self) -> str:
        names = [name for name in inspect.signature(type(self)).parameters if hasattr(self, name)]
        parameters = ", ".join(f"{name}={reprlib.repr(getattr(self, name))}" for name in names)
        return f"{type(self).__name__}({parameters})"

    def __call__(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return the submissions of all workers.

        Args:
            gradients: What every worker would honestly send, shape [E, n, d].
            byzantine: Which workers are Byzantine in this round, bool, shape [E, n].
            context: What else is known.

        Returns:
            A new tensor of shape [E, n, d]. With the scope "workers", honest rows are unchanged.

        Raises:
            TypeError, ValueError: If an argument is not such a tensor.
        """
        _check_gradients(gradients)
        check_tensor("byzantine", byzantine, *gradients.shape[:2])
        if byzantine.dtype != torch.bool:
            raise ValueError(f"byzantine must be bool, got {byzantine.dtype}")
        submitted = as_submissions(self, self.corrupt(gradients, byzantine, context), gradients.shape)
        submitted = submitted.to(gradients.dtype)
        if self.scope == "transmission":
            return submitted.clone()
        return torch.where(byzantine[..., None], submitted, gradients)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return what Byzantine workers send. The arguments are those of `__call__`.

        Returns:
            Shape [E, n, d], or a shape that broadcasts to it, such as [E, 1, d] if all send the same. With
            the scope "workers" only the Byzantine rows are used.
        """
        raise NotImplementedError(f"{type(self).__name__} must define corrupt")


class DataPoisoning(Attack, ABC):
    """An attack on the Byzantine workers' data. They compute honest gradients of the poisoned batches."""

    @abstractmethod
    def poison(
        self, x: Tensor, y: Tensor, byzantine: Tensor, context: AttackContext
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """Return the batches from which gradients are computed.

        Args:
            x: Inputs, shape [E, n, B, ...].
            y: Labels, int64, shape [E, n, B].
            byzantine: Which workers are Byzantine in this round, bool, shape [E, n].
            context: What else is known.

        Returns:
            Inputs and labels of the same shapes, labels int64 from 0 to ``num_classes - 1``, and perhaps
            weights [E, n, B] of the samples, finite and of either sign: a worker's gradient is then that of
            ``sum_b weight_b loss_b / B``. (It is computed without dropout.) Only the batches of Byzantine
            workers are used.
        """

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return the gradients unchanged: they have been computed from poisoned data."""
        return gradients


def as_submissions(attack: Any, submitted: Any, shape: torch.Size) -> Tensor:
    """What an attack returned, expanded to ``shape`` [E, n, d]. Errors show ``attack``, or its name.

    Raises:
        ValueError: If it is not a dense tensor of real numbers that broadcasts to the shape.
    """
    if not isinstance(submitted, Tensor):
        got = type(submitted).__name__
    elif submitted.is_complex() or submitted.layout is not torch.strided:
        got = f"{submitted.dtype} of layout {submitted.layout}"
    else:
        try:
            return submitted.expand(shape)
        except RuntimeError:
            got = str(tuple(submitted.shape))
    wanted = f"a tensor of real numbers of shape {tuple(shape)}"
    raise ValueError(f"attack {attack} must return {wanted}, got {got}")


def _check_gradients(gradients: Any) -> None:
    check_tensor("gradients", gradients, "E", "n", "d")
    if not gradients.is_floating_point():
        raise ValueError(f"gradients must be floating point, got {gradients.dtype}")
