"""Attacks that submit random numbers, whatever the gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from byzgym.attacks.base import Attack, AttackContext
from byzgym.attacks.registry import registry
from byzgym.validation import check_real


class Noise(Attack, ABC):
    """Random numbers, whatever the gradients; a subclass defines how they are drawn.

    Only Byzantine rows are drawn: normal numbers cost some twenty times as much as copying a gradient.
    """

    reads_own: ClassVar[bool] = False

    @abstractmethod
    def draw(self, rows: Tensor, generator: torch.Generator) -> None:
        """Fill the rows [m, d] of one environment."""

    def rows(self, like: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """The Byzantine rows alone, which spares the simulation a detour by all rows.

        Args:
            like: Gives the number of columns d, the type and the device.
            byzantine: Bool, shape [E, n].
            context: Whose generators are drawn from.

        Returns:
            Shape [m, d], in the order of ``byzantine.nonzero()``.
        """
        counts = byzantine.sum(-1).tolist()
        rows = like.new_empty(sum(counts), like.shape[-1])
        for part, generator in zip(rows.split(counts), context.generators, strict=True):
            if len(part):
                self.draw(part, generator)
        return rows

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """See `Attack.corrupt`."""
        submitted = torch.zeros_like(gradients)
        submitted[byzantine] = self.rows(gradients, byzantine, context)
        return submitted


@registry.built_in("gaussian")
class Gaussian(Noise):
    """Gaussian noise, ``N(mean, std^2)`` in each coordinate, in place of the gradient.

    The Gaussian attack of Xie et al. 2018, "Generalized Byzantine-tolerant SGD", section 5.2, has mean 0 and
    standard deviation 200.

    Args:
        mean: Any finite number.
        std: At least 0.
    """

    def __init__(self, mean: float = 0.0, std: float = 200.0) -> None:
        self.mean = check_real("mean", mean)
        self.std = check_real("std", std, low=0)

    def draw(self, rows: Tensor, generator: torch.Generator) -> None:
        """Fill the rows [m, d] of one environment."""
        rows.normal_(self.mean, self.std, generator=generator)


@registry.built_in("random")
class RandomFault(Gaussian):
    """``gaussian`` with the numbers of the random fault in the public reconstruction of GAA.

    With its standard deviation of 2e-6 this is practically the constant 0.01. The reconstruction is
    github.com/nicehiro/GAA-Consensus; GAA's authors (Pan et al. 2020) call random updates static attacks.

    Args:
        mean: Any finite number.
        std: At least 0.
    """

    def __init__(self, mean: float = 0.01, std: float = 2e-6) -> None:
        super().__init__(mean, std)


@registry.built_in("uniform")
class Uniform(Noise):
    """Uniform noise, ``U[low, high)`` in each coordinate, in place of the gradient.

    FABA (Xia et al. 2019) is tested with U(-0.25, 0.25).

    Args:
        low: Any number that float32 can hold (3.4e38).
        high: At least ``low``, by no more than that.
    """

    def __init__(self, low: float = -1.0, high: float = 1.0) -> None:
        largest = torch.finfo(torch.float32).max
        self.low = check_real("low", low, low=-largest, high=largest)
        self.high = check_real("high", high, low=self.low, high=largest)
        check_real("high - low", self.high - self.low, high=largest)

    def draw(self, rows: Tensor, generator: torch.Generator) -> None:
        """Fill the rows [m, d] of one environment."""
        rows.uniform_(self.low, self.high, generator=generator)
