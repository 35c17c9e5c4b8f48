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

    A factory without a parameter ``num_byzantine`` is told nothing; one with ``**parameters`` is.

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
    if "name" not in parameters:
        raise ValueError(f"rule: a mapping needs the key 'name', got {spec!r}")
    name = parameters.pop("name")
    if "num_byzantine" in parameters or not registry.takes(name, "num_byzantine"):
        return make(name, **parameters)
    told = largest_byzantine(name, num_workers, num_byzantine)
    rule = make(name, num_byzantine=told, **parameters)
    if hasattr(registry.factory(name), "max_byzantine"):
        return rule
    # The factory does not say how much its rule accepts, but the rule may.
    largest = largest_byzantine(rule, num_workers, num_byzantine)
    return rule if largest == told else make(name, num_byzantine=largest, **parameters)


def apply_to_view(rule: Callable[[Tensor], Tensor], view: ServerView) -> Tensor:
    """The aggregate [E, d] of the accepted submissions.

    A callable that is no `Rule` gets zero rows in place of the rejected ones.

    Raises:
        TypeError: If the rule does not return a tensor of real numbers.
        ValueError: If what it returns is not of shape [E, d].
    """
    return checked_update(rule, rule(_received(rule, view)), view)


def credits_for_view(rule: Any, view: ServerView) -> Tensor:
    """The credits [E, n] that a linear rule gives the accepted submissions; the rejected ones get none.

    Raises:
        TypeError: If the credits are not a tensor.
        ValueError: If they are not of shape [E, n], negative, not finite, or sum to more than 1.
    """
    credits = rule.credits(_received(rule, view))
    return accepted(checked_credits(rule, credits, view), view.rejected)


def checked_update(author: Any, update: Any, view: ServerView) -> Tensor:
    """The aggregate [E, d] that somebody's rule or agent has returned, if it is one.

    Raises:
        TypeError: If it is not a tensor of real numbers.
        ValueError: If it has another shape.
    """
    _check_result(author, "return aggregates", update, view.theta.shape)
    return update.detach()


def checked_credits(author: Any, credits: Any, view: ServerView) -> Tensor:
    """The credits that somebody's rule or agent has given, if they are credits.

    Args:
        author: Named in errors.
        credits: To be of shape [E, n], not negative, with sums of at most 1.
        view: The round they are for.

    Raises:
        TypeError: If the credits are not a tensor.
        ValueError: If they have another shape, are negative or not finite, or sum to more than 1.
    """
    _check_result(author, "give credits", credits, view.previous_credits.shape)
    if not bool(((credits >= 0).all(1) & (credits.sum(1) <= 1 + 1e-3)).all()):
        raise ValueError(
            f"{author!r} must give credits that are not negative and sum to at most 1, got {credits.tolist()}"
        )
    return credits.detach().to(view.previous_credits.dtype)


def _check_result(author: Any, verb: str, result: Any, shape: torch.Size) -> None:
    if not isinstance(result, Tensor) or result.is_complex():
        got = result.dtype if isinstance(result, Tensor) else type(result).__name__
        raise TypeError(f"{author!r} must {verb} as a tensor of real numbers, got {got}")
    if result.shape != shape:
        raise ValueError(f"{author!r} must {verb} of shape {tuple(shape)}, got {tuple(result.shape)}")


def accepted(credits: Tensor, rejected: Tensor) -> Tensor:
    """Move the credit of rejected rows to the accepted ones.

    Args:
        credits: Not negative, shape [E, n].
        rejected: Bool, shape [E, n].

    Returns:
        Credits in the same proportions and with the same sum, uniform over the accepted rows where these had
        none, and zero where every row was rejected. Where no rejected row had any they are those given, to
        the last bit: else what is played beside a run could change it.
    """
    if not rejected.any():
        return credits
    total = credits.sum(1, keepdim=True)
    total = torch.where((total - 1).abs() <= 1e-6, 1, total)
    kept = credits.masked_fill(rejected, 0)
    # Numbers as small as a softmax can leave have few digits, and sums that cannot be divided by.
    shares = torch.where(kept.sum(1, keepdim=True) < 1e-30, kept * 2.0**100, kept)
    left = shares.sum(1, keepdim=True)
    rows = (~rejected).to(credits.dtype)
    uniform = rows / rows.sum(1, keepdim=True).clamp(min=1)
    moved = total * torch.where(left > 0, shares / left.clamp(min=1e-38), uniform)
    return torch.where((kept != credits).any(1, keepdim=True), moved, credits)


def _received(rule: Any, view: ServerView) -> Tensor:
    if not isinstance(rule, Rule) or not view.rejected.any():
        return view.gradients
    # Rules pass over rows that are not finite.
    return view.gradients.masked_fill(view.rejected[..., None], torch.nan)
