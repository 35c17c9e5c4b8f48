"""The server's own gradient: the control for every rule that has quasi-validation samples."""

from __future__ import annotations

from typing import ClassVar

from byzgym.aggregation.base import ServerRule
from byzgym.aggregation.policy import Decision
from byzgym.aggregation.registry import registry
from byzgym.aggregation.view import ServerView


@registry.built_in("qv_only")
class QVOnly(ServerRule):
    """The gradient of the loss on the server's quasi-validation (QV) samples. It trusts no worker.

    This is a control and no method: a rule that is given QV samples should do better than training on them.
    It has no credits, since its update does not come from the submissions.

    Condition: n >= f + 1. Cost: one QV gradient.

    Args:
        num_byzantine: Not used.

    Example:
        >>> import torch
        >>> view = ServerView(torch.ones(1, 3, 2), torch.zeros(1, 2), 0.1, lambda theta: 5 * theta[:, 0])
        >>> QVOnly().aggregate(view)
        tensor([[5., 0.]])
    """

    claims: ClassVar[frozenset[str]] = frozenset({"permutation", "breakdown", "dimensional"})
    needs: ClassVar[frozenset[str]] = frozenset({"qv"})
    uses_num_byzantine: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def _decide(self, view: ServerView) -> Decision:
        return Decision(view.qv_gradient.to(view.gradients.dtype))
