"""What decides: a policy turns what the server knows in a round into an update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from byzgym.aggregation.view import ServerView
from byzgym.ambient import without_autocast
from byzgym.numerics.finite import is_finite
from byzgym.validation import check_tensor, shown


class NotLinearError(TypeError):
    """Raised when a policy is asked for credits and its update is no weighted sum of the submissions."""


@dataclass(frozen=True, eq=False)
class Decision:
    """What a policy decides in one round, for E environments.

    Attributes:
        update: The aggregate; the server steps ``theta - learning_rate * update``.
        credits: The credits that made it, not negative, with sums of at most 1. None, or a row of NaN, where
            the update is no weighted sum of the submissions.

    Raises:
        TypeError: If the update or the credits are no tensors of real numbers.
        ValueError: If their shapes do not fit, or a credit is negative or NaN, or credits sum to more than 1.

    Example:
        >>> Decision(torch.zeros(1, 5), torch.tensor([[0.5, 0.5]])).credits
        tensor([[0.5000, 0.5000]])
    """

    update: Tensor  # [E, d]
    credits: Tensor | None = None  # [E, n]

    def __post_init__(self) -> None:
        check_tensor("update", self.update, "E", "d")
        if self.credits is not None:
            check_tensor("credits", self.credits, len(self.update), "n")
            sound = (self.credits >= 0).all(1) & (self.credits.sum(1) <= 1 + 1e-3)
            bad = ~(sound | self.credits.isnan().all(1)) if not sound.all() else ~sound
            if bad.any():
                raise _bad_credits(self.credits[bad][0])

    @classmethod
    def from_credits(cls, credits: Tensor, view: ServerView) -> Decision:
        """The weighted sum of the accepted submissions.

        Args:
            credits: Shape [E, n], not negative, with sums of at most 1. What they give to rejected
                submissions goes to the accepted ones, see `move_credit`.
            view: The round.
        """
        check_tensor("credits", credits, view.num_envs, view.num_workers)
        if not is_finite(credits):
            raise _bad_credits(credits[~credits.isfinite().all(1)][0])
        credits = move_credit(credits.detach().to(view.gradients), view.rejected)
        return cls(combine(credits, view.gradients), credits)


class Policy(ABC):
    """Decides in every round how to aggregate, from the `ServerView` alone.

    A subclass defines `decide`. Everything that decides is a policy: rules, GAA, controls, the oracle.

    Attributes:
        linear: Whether every decision has credits.
        reference: Whether the policy sees more than a server would; tables mark it.
    """

    linear: bool = True
    reference: ClassVar[bool] = False

    @abstractmethod
    def decide(self, view: ServerView) -> Decision:
        """Decide on the update of this round. Call it once a round; it must not write into the view."""

    def reset(self, envs: Tensor | None = None) -> None:  # noqa: B027
        """Forget the present episodes. Call it when new ones begin.

        Args:
            envs: Which environments begin a new episode, bool of shape [E]; all where None.
        """

    def credits(self, view: ServerView) -> Tensor:
        """Short for ``decide(view).credits``, shape [E, n].

        Raises:
            NotLinearError: If the decision has no credits.
        """
        credits = self.decide(view).credits
        if credits is None:
            raise no_credits(self)
        return credits

    def aggregate(self, view: ServerView) -> Tensor:
        """Short for ``decide(view).update``, shape [E, d]."""
        return self.decide(view).update

    def __repr__(self) -> str:
        return type(self).__name__


def no_credits(policy: object) -> NotLinearError:
    """The error for a policy that was asked for credits and has none."""
    return NotLinearError(
        f"{policy!r} has no credits: its update is no weighted sum of the submissions; use its update, in "
        "the environment with action='update' or action='rule'"
    )


def _bad_credits(credits: Tensor) -> ValueError:
    return ValueError(
        f"credits must not be negative and must sum to at most 1, got {shown(credits.tolist())}"
    )


def move_credit(credits: Tensor, rejected: Tensor) -> Tensor:
    """Move the credit of rejected submissions to the accepted ones.

    Args:
        credits: Not negative, shape [E, n].
        rejected: Bool, shape [E, n].

    Returns:
        Credits in the same proportions and with the same sum. They are uniform over the accepted submissions
        where these had none, and zero where all are rejected. Where no rejected submission had credit, they
        stay the same to the last bit: what else is in the batch must not change a run.
    """
    if not rejected.any():
        return credits
    total = credits.sum(1, keepdim=True)
    total = torch.where((total - 1).abs() <= 1e-6, 1, total)
    kept = credits.masked_fill(rejected, 0)
    # A softmax can leave numbers too small to divide by; their largest becomes 1 first.
    largest = kept.amax(1, keepdim=True)
    shares = torch.where(largest < 1e-30, kept / largest.clamp(min=1e-38), kept)
    left = shares.sum(1, keepdim=True)
    rows = (~rejected).to(credits.dtype)
    uniform = rows / rows.sum(1, keepdim=True).clamp(min=1)
    moved = total * torch.where(left > 0, shares / left.clamp(min=1e-38), uniform)
    return torch.where((kept != credits).any(1, keepdim=True), moved, credits)


@without_autocast
def combine(credits: Tensor, gradients: Tensor) -> Tensor:
    """The weighted sum [..., d] of submissions [..., n, d] with credits [..., n].

    A row without credit cannot spoil it, whatever it holds.
    """
    total = (credits[..., None, :] @ gradients)[..., 0, :]
    if not is_finite(total):
        kept = torch.where((credits != 0)[..., None], gradients, 0)
        total = (credits[..., None, :] @ kept)[..., 0, :]
    return total
