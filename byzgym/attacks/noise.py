"""Attacks that submit random numbers in place of the gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from byzgym.attacks.base import Attack, AttackContext
from byzgym.attacks.registry import registry
from byzgym.validation import check_real


class Noise(Attack, ABC):
    """Random numbers in place of the gradient. A subclass defines in `draw` how they are drawn.

    They are drawn for Byzantine rows only: a normal number costs twenty times as much as a copied one.
    """

    reads_own = False

    @abstractmethod
    def draw(self, rows: Tensor, generator: torch.Generator) -> None:
        """Fill the Byzantine rows [m, d] of one environment."""

    def rows(self, like: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """The Byzantine rows alone, shape [m, d], in the order of ``byzantine.nonzero()``.

        The simulation writes them straight to where they belong. Of ``like`` only d, the type and the device
        are used.
        """
        counts = byzantine.sum(-1).tolist()
        rows = like.new_empty(sum(counts), like.shape[-1])
        for part, generator in zip(rows.split(counts), context.generators, strict=True):
            if len(part):
                self.draw(part, generator)
        return rows

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, n, d], zero in honest rows; see `Attack.corrupt`."""
        submitted = torch.zeros_like(gradients)
        submitted[byzantine] = self.rows(gradients, byzantine, context)
        return submitted


@registry.built_in("gaussian")
class Gaussian(Noise):
    """Gaussian attack of Xie et al. 2018, "Generalized Byzantine-tolerant SGD"
    (https://arxiv.org/abs/1802.10116). Byzantine workers submit normal numbers N(mean, std^2).

    The paper has N(0, 200^2) (section 5.2). A worker needs to know nothing.

    Args:
        mean: Any finite number.
        std: At least 0.

    Example:
        >>> gradients = torch.ones(1, 1, 1000)
        >>> submitted = Gaussian()(gradients, torch.tensor([[True]]), AttackContext.standalone(gradients))
        >>> 190 < submitted.std().item() < 210
        True
    """

    def __init__(self, mean: float = 0.0, std: float = 200.0) -> None:
        self.mean = check_real("mean", mean)
        self.std = check_real("std", std, low=0)

    def draw(self, rows: Tensor, generator: torch.Generator) -> None:
        """Fill the Byzantine rows [m, d] of one environment."""
        rows.normal_(self.mean, self.std, generator=generator)


@registry.built_in("random")
class RandomFault(Gaussian):
    """Random fault of the reconstruction of GAA by nicehiro (https://github.com/nicehiro/GAA-Consensus).
    Byzantine workers submit numbers close to 0.01.

    It is `Gaussian` with other defaults. GAA's authors (Pan et al. 2020) call random updates static attacks.
    A worker needs to know nothing.

    Example:
        >>> gradients = torch.ones(1, 1, 2)
        >>> RandomFault()(gradients, torch.tensor([[True]]), AttackContext.standalone(gradients))
        tensor([[[0.0100, 0.0100]]])
    """

    def __init__(self, mean: float = 0.01, std: float = 2e-6) -> None:
        super().__init__(mean, std)


@registry.built_in("uniform")
class Uniform(Noise):
    """Uniform noise of Xia et al. 2019, "FABA" (https://www.ijcai.org/Proceedings/2019/670). Byzantine
    workers submit numbers uniform in [low, high).

    The paper has U(-0.25, 0.25). A worker needs to know nothing.

    Args:
        low: From -3.4e38 to 3.4e38, the range of float32.
        high: From ``low`` to 3.4e38; ``high - low`` must be at most 3.4e38, too.

    Example:
        >>> gradients = torch.ones(1, 1, 1000)
        >>> context = AttackContext.standalone(gradients)
        >>> submitted = Uniform(low=0.5)(gradients, torch.tensor([[True]]), context)
        >>> 0.5 <= submitted.min().item() < 0.51
        True
    """

    def __init__(self, low: float = -1.0, high: float = 1.0) -> None:
        largest = torch.finfo(torch.float32).max
        self.low = check_real("low", low, low=-largest, high=largest)
        self.high = check_real("high", high, low=self.low, high=largest)
        check_real("high - low", self.high - self.low, high=largest)

    def draw(self, rows: Tensor, generator: torch.Generator) -> None:
        """Fill the Byzantine rows [m, d] of one environment."""
        rows.uniform_(self.low, self.high, generator=generator)
