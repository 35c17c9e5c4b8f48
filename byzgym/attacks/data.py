"""Attacks on the Byzantine workers' data."""

from __future__ import annotations

import torch
from torch import Tensor

from byzgym.attacks.base import AttackContext, DataPoisoning
from byzgym.attacks.registry import registry


@registry.built_in("label_flip")
class LabelFlip(DataPoisoning):
    """Mirrors labels, ``y -> C - 1 - y`` with C classes: digit 0 becomes 9, 1 becomes 8, and so on.

    As in Fang et al. 2020, "Local model poisoning attacks", and FLTrust. With an odd C the middle class keeps
    its label.
    """

    def poison(
        self, x: Tensor, y: Tensor, byzantine: Tensor, context: AttackContext
    ) -> tuple[Tensor, Tensor]:
        """Return the inputs themselves and the labels [E, n, B], flipped for Byzantine workers."""
        return x, torch.where(byzantine[..., None], context.num_classes - 1 - y, y)
