"""Centered clipping."""

from __future__ import annotations

from typing import ClassVar

import torch

from byzgym.aggregation.base import ServerRule, combine_weights
from byzgym.aggregation.policy import Decision
from byzgym.aggregation.registry import registry
from byzgym.aggregation.view import ServerView
from byzgym.numerics.distances import distances_to
from byzgym.validation import check_int, check_real


@registry.built_in("centered_clipping")
class CenteredClipping(ServerRule):
    """Centered clipping of Karimireddy, He and Jaggi 2021, "Learning from History for Byzantine Robust
    Optimization" (https://arxiv.org/abs/2012.10333). It moves the last aggregate towards the submissions, and
    nobody can move it far.

    Each step is ``v <- v + 1/n sum_i (x_i - v) min(1, radius / ||x_i - v||)``, from the v of the round
    before, which is zero at first. The paper has workers send their momentum. The update is no
    weighted sum of the submissions alone, so the rule has no credits. Where all are rejected, v stays.

    Condition: n >= f + 1. Cost: ``steps`` times n d.

    Args:
        num_byzantine: Not used.
        radius: How far a submission can pull, above 0. It should be of the size of the distances between
            honest submissions; 10 is what the authors' code and Blades take (ByzFL 100, CRYPTO-KU 1, Bant
            0.1).
        steps: How many steps in a round, at least 1. The paper and ByzFL have one, Blades 5.

    Example:
        >>> from byzgym.memory import Memory
        >>> gradients, memory, rule = torch.tensor([[[1.0], [50.0]]]), Memory(num_envs=1), CenteredClipping()
        >>> for _ in range(2):  # (1 + 10) / 2, and then (-4.5 + 10) / 2 more
        ...     rule.aggregate(ServerView(gradients, torch.zeros(1, 1), 0.1, None, memory=memory))
        tensor([[5.5000]])
        tensor([[8.2500]])
    """

    # In one round; over many, a Byzantine majority moves it as far as it likes.
    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "breakdown", "dimensional"})
    update_bound: ClassVar[str | None] = "distance from the last aggregate at most {radius}"
    needs: ClassVar[frozenset[str]] = frozenset({"memory"})
    uses_num_byzantine: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def __init__(self, num_byzantine: int = 0, radius: float = 10.0, steps: int = 1) -> None:
        super().__init__(num_byzantine)
        self.radius = check_real("radius", radius, above=0)
        self.steps = check_int("steps", steps, low=1)

    def _decide(self, view: ServerView) -> Decision:
        assert view.memory is not None
        accepted = (~view.rejected).sum(1, keepdim=True).clamp(min=1)
        # Half precision would lose small steps.
        dtype = torch.promote_types(view.gradients.dtype, torch.float32)
        center = view.memory.read("centered_clipping.center", view.theta.shape[1], dtype=dtype)  # [E, d]
        for _ in range(self.steps):
            distances = distances_to(view.gradients.detach(), center)
            factors = self.radius / distances.clamp(min=self.radius)
            factors = factors.masked_fill(view.rejected, 0) / accepted
            stays = (1 - factors.sum(1, keepdim=True)).to(dtype)
            center = stays * center + combine_weights(factors, view.gradients.detach())
        view.memory.write("centered_clipping.center", center)
        return Decision(center.to(view.gradients.dtype))
