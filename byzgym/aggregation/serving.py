"""Rules at work in a server: given the largest f they accept, and applied to what was received."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from byzgym.aggregation.base import Rule
from byzgym.aggregation.registry import largest_byzantine, make, registry
from byzgym.aggregation.view import ServerView


def make_within(
    spec: str | Mapping[str, Any], num_workers: int, num_byzantine: int
) -> Callable[[Tensor], Tensor]:
    """A rule that is told f, or the largest f it accepts where that is less.

    Args:
        spec: A name, or a mapping with the name and parameters. A number of Byzantine workers in the mapping
            is left alone.
        num_workers: n.
        num_byzantine: f.

    Raises:
        ValueError: If the name is unknown, or the rule accepts no f at all for this n.
        TypeError: If a parameter does not exist.
    """
    parameters: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = parameters.pop("name")
    if isinstance(registry.factory(name), type) and "num_byzantine" not in parameters:
        parameters["num_byzantine"] = largest_byzantine(name, num_workers, num_byzantine)
    return make(name, **parameters)


def apply_to_view(rule: Callable[[Tensor], Tensor], view: ServerView) -> Tensor:
    """The aggregate [E, d] of the accepted submissions.

    A callable that is no `Rule` gets zero rows in place of the rejected ones.
    """
    return rule(_received(rule, view))


def credits_for_view(rule: Any, view: ServerView) -> Tensor:
    """The credits [E, n] that a linear rule gives the accepted submissions."""
    return rule.credits(_received(rule, view))


def renormalise(credits: Tensor, rejected: Tensor) -> Tensor:
    """Bring credits back to the simplex after the rejected rows have lost theirs.

    Args:
        credits: Not negative, zero in rejected rows, shape [E, n].
        rejected: Bool, shape [E, n].

    Returns:
        Credits in the same proportions, uniform over the accepted rows where these had none, and zero where
        every row was rejected.
    """
    total = credits.sum(1, keepdim=True)
    accepted = (~rejected).to(credits.dtype)
    uniform = accepted / accepted.sum(1, keepdim=True).clamp(min=1)
    return torch.where(total > 0, credits / total.clamp(min=1e-38), uniform)


def _received(rule: Any, view: ServerView) -> Tensor:
    if not isinstance(rule, Rule) or not view.rejected.any():
        return view.gradients
    # Rules pass over rows that are not finite.
    return view.gradients.masked_fill(view.rejected[..., None], torch.nan)
