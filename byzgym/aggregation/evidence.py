"""What a server learns of the workers: agreement with its own gradient, passed on, averaged over the rounds.

The rule `trust`, the agent `set` and the observations `reputation` and `history` are built on these.
"""

from __future__ import annotations

import torch
from torch import Tensor

from byzgym.aggregation.view import ServerView
from byzgym.numerics.distances import unit_rows

RATE = 0.1
"""Weight of a round in the running mean of the evidence."""


def pass_on(agreement: Tensor, similarity: Tensor) -> Tensor:
    """Each worker's mean of all agreement [..., n], weighted by its similarity [..., n, n] to them.

    Example:
        The first two workers resemble each other, so they share what they agree; the third stands alone.

        >>> similarity = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> pass_on(torch.tensor([0.75, 0.25, -0.5]), similarity)
        tensor([ 0.5000,  0.5000, -0.5000])
    """
    total = similarity.abs().sum(-1).clamp(min=1e-12)
    return (similarity @ agreement[..., None])[..., 0] / total


def running_mean(view: ServerView, name: str, values: Tensor, rate: float) -> Tensor:
    """The exponential mean of a value [E, n, ...] of each worker over its rounds.

    It is corrected for its start at zero and kept in ``view.memory`` under the name. It moves in rounds in
    which the worker takes part.

    Raises:
        ValueError: If the view has no memory.
    """
    mean = view.recall(f"{name}.mean", *values.shape[2:], dtype=values.dtype)
    age = view.recall(f"{name}.age", dtype=torch.int64)  # [E, n]
    mean, age = (1 - rate) * mean + rate * values, age + 1
    view.keep(f"{name}.mean", mean)
    view.keep(f"{name}.age", age)
    each = age.shape + (1,) * (values.dim() - 2)
    return mean / (1 - (1 - rate) ** age).view(each).to(mean.dtype)


def reputation(view: ServerView) -> Tensor:
    """The running mean T [E, n] of the evidence for each worker, from -1 to 1; see the rule `Trust`.

    The mean is in ``view.memory``.

    Raises:
        ValueError: If the view has no memory or no QV loss.
    """
    unit = unit_rows(view.gradients)
    server = unit_rows(view.qv_gradient[:, None])
    agreement = torch.bmm(unit, server.mT.to(unit))[..., 0]  # [E, n]
    similarity = torch.bmm(unit, unit.mT)
    evidence = pass_on(agreement, similarity)
    return running_mean(view, "trust", evidence, RATE)
