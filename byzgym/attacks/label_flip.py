"""Label flipping, an attack on the Byzantine workers' data."""

from __future__ import annotations

import torch
from torch import Tensor

from byzgym.attacks.base import AttackContext, DataPoisoning
from byzgym.attacks.registry import registry


@registry.built_in("label_flip")
class LabelFlip(DataPoisoning):
    """Label flipping of Fang et al. 2020, "Local model poisoning attacks" (https://arxiv.org/abs/1911.11815).
    Byzantine workers train on labels ``C - 1 - y``, where C is the number of classes.

    Digit 0 becomes 9, 1 becomes 8, and so on. With an odd C the middle class keeps its label. A worker needs
    to know its own data only.

    Example:
        >>> context = AttackContext.standalone(torch.zeros(1, 2, 5), num_classes=10)
        >>> x, y = torch.zeros(1, 2, 3, 64), torch.tensor([[[0, 1, 9], [0, 1, 9]]])
        >>> LabelFlip().poison(x, y, torch.tensor([[False, True]]), context)[1]
        tensor([[[0, 1, 9],
                 [9, 8, 0]]])
    """

    def poison(
        self, x: Tensor, y: Tensor, byzantine: Tensor, context: AttackContext
    ) -> tuple[Tensor, Tensor]:
        """Return the inputs unchanged, and labels [E, n, B] that are flipped for Byzantine workers."""
        return x, torch.where(byzantine[..., None], context.num_classes - 1 - y, y)
