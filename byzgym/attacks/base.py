"""What an attack is, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(eq=False, repr=False)
class AttackContext:
    """What attacks and role functions may know of the round, for E environments.

    Attributes:
        round: Rounds since the start of each episode.
        generators: One random generator per environment; the only source of randomness allowed.
        learning_rate: The server's step size.
        previous_update: What the server applied in the last round (zero in round 0).
        num_classes: Number of classes, for attacks on labels.
        rule: The server's rule (the mean where it uses none), only for attacks that declare the knowledge
            "rule". Where environments may differ in it, it takes submissions [E, ..., n, d] only.
        qv: The server's quasi-validation samples (x [E, q, ...], y [E, q]), only for attacks that declare
            the knowledge "qv".
    """

    round: Tensor  # [E] int64
    generators: Sequence[torch.Generator]  # E
    learning_rate: Tensor  # [E]
    previous_update: Tensor  # [E, d]
    num_classes: int = 2
    rule: Callable[[Tensor], Tensor] | None = None
    qv: tuple[Tensor, Tensor] | None = None
    memory: Any = None

    @classmethod
    def standalone(cls, gradients: Tensor, seed: int = 0, num_classes: int = 2) -> AttackContext:
        """A context for use without a simulation: round 0, learning rate 1, seeds ``seed + e``.

        Args:
            gradients: Honest gradients, shape [E, n, d]; only shape, type and device are read.
            seed: Seed of the first environment.
            num_classes: Number of classes, for attacks on labels.
        """
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

        Args:
            *shape: Shape of one environment's numbers.
            dtype: Their type.
            where: Bool, shape [E]. The other environments get zeros, and their generators stay as they are.
        """
        out = self._zeros(shape, dtype)
        for row, generator in self._drawing(out, where):
            row.normal_(generator=generator)
        return out

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32, where: Tensor | None = None) -> Tensor:
        """Numbers uniform in [0, 1) of shape [E, *shape], row e from generator e; see `normal`."""
        out = self._zeros(shape, dtype)
        for row, generator in self._drawing(out, where):
            row.uniform_(generator=generator)
        return out

    def integers(self, high: int, *shape: int, where: Tensor | None = None) -> Tensor:
        """Whole numbers uniform in 0 .. high - 1, int64 of shape [E, *shape]; see `normal`."""
        out = self._zeros(shape, torch.int64)
        for row, generator in self._drawing(out, where):
            row.random_(0, high, generator=generator)
        return out

    def _zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.zeros(len(self.generators), *shape, dtype=dtype, device=self.round.device)

    def _drawing(self, out: Tensor, where: Tensor | None) -> Iterator[tuple[Tensor, torch.Generator]]:
        """The environments that draw: their rows of ``out`` with their generators."""
        drawing = [True] * len(self.generators) if where is None else where.tolist()
        for row, generator, draws in zip(out, self.generators, drawing, strict=True):
            if draws:
                yield row, generator


class Attack:
    """Turns honest gradients into submitted ones.

    Any callable with the signature of `__call__` is an attack. A subclass defines `corrupt`, and promises
    never to write into its input, which spares the simulation a copy. One that overrides ``__call__`` answers
    for all rows itself.

    Attributes:
        knowledge: What of the server it must be shown: a subset of {"rule", "qv"}.
        scope: "workers": honest rows stay as they are, whatever `corrupt` returns (unless it breaks its
            promise and writes into them). "transmission": it corrupts what is sent, by any worker.
        reads_own: Whether it reads the rows of Byzantine workers, which hold what they would honestly send.
            Where it does not, the simulation may leave those gradients out, which saves their share of the
            time of a round; the rows then hold anything, even numbers that are not finite. A subclass with a
            `corrupt` or ``__call__`` of its own has to say so anew.
    """

    knowledge: ClassVar[frozenset[str]] = frozenset()
    scope: str = "workers"
    reads_own: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep a subclass from inheriting a promise that its own methods may break."""
        super().__init_subclass__(**kwargs)
        for ancestor in cls.__mro__:
            if "reads_own" in vars(ancestor):
                return
            if {"corrupt", "__call__"} & set(vars(ancestor)):
                cls.reads_own = True
                return

    def __call__(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return the submissions of all workers.

        Args:
            gradients: What every worker would honestly send, shape [E, n, d].
            byzantine: Which workers are Byzantine in this round, bool, shape [E, n].
            context: What else is known.

        Returns:
            A new tensor of shape [E, n, d]; with the scope "workers", honest rows are as they came.

        Raises:
            TypeError: If ``gradients`` or ``byzantine`` is not a tensor.
            ValueError: If one of them has another shape or type.
        """
        _check_given(gradients, byzantine)
        submitted = as_submissions(self, self.corrupt(gradients, byzantine, context), gradients.shape)
        submitted = submitted.to(gradients.dtype)
        if self.scope == "transmission":
            return submitted.clone()
        return torch.where(byzantine[..., None], submitted, gradients)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return what Byzantine workers send, from the arguments of `__call__`.

        Returns:
            Shape [E, n, d], or anything that broadcasts to it, such as [E, 1, d] for a common submission;
            with the scope "workers" only the Byzantine rows count.
        """
        raise NotImplementedError(f"{type(self).__name__} must define corrupt")


def _check_given(gradients: Any, byzantine: Any) -> None:
    for name, given in (("gradients", gradients), ("byzantine", byzantine)):
        if not isinstance(given, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(given).__name__}")
    if gradients.dim() != 3 or not gradients.is_floating_point():
        raise ValueError(
            f"gradients must be floating point of shape [E, n, d], got {gradients.dtype} of shape "
            f"{tuple(gradients.shape)}"
        )
    if byzantine.dtype != torch.bool or byzantine.shape != gradients.shape[:2]:
        raise ValueError(
            f"byzantine must be bool of shape {tuple(gradients.shape[:2])}, [E, n], got {byzantine.dtype} of "
            f"shape {tuple(byzantine.shape)}"
        )


def as_submissions(author: Any, submitted: Any, shape: torch.Size) -> Tensor:
    """What an attack has returned, expanded to submissions of ``shape``.

    Raises:
        ValueError: If it is something else.
    """
    problem = f"attack {author!r} must return a tensor of real numbers of shape {tuple(shape)}, got "
    if not isinstance(submitted, Tensor):
        raise ValueError(problem + type(submitted).__name__)
    if submitted.is_complex() or submitted.layout is not torch.strided:
        raise ValueError(problem + f"{submitted.dtype} of layout {submitted.layout}")
    try:
        return submitted.expand(shape)
    except RuntimeError:
        raise ValueError(problem + str(tuple(submitted.shape))) from None


class DataPoisoning(Attack, ABC):
    """An attack on the Byzantine workers' data; their gradients are then computed honestly."""

    @abstractmethod
    def poison(
        self, x: Tensor, y: Tensor, byzantine: Tensor, context: AttackContext
    ) -> tuple[Tensor, Tensor]:
        """Return the batches from which gradients are computed.

        Args:
            x: Inputs, shape [E, n, B, ...].
            y: Labels, int64, shape [E, n, B].
            byzantine: Which workers are Byzantine in this round, bool, shape [E, n].
            context: What else is known.

        Returns:
            Inputs and labels of the same shapes, labels int64 from 0 to ``num_classes - 1``; honest workers'
            batches are put back.
        """

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return the gradients unchanged: the poisoned data has done the work."""
        return gradients
