"""Actions: from what an agent returns to the credits that the server applies."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from byzgym.aggregation import accepted
from byzgym.validation import check_choice


class CreditActions:
    """Credit vectors: one number per received row.

    Args:
        kind: "credits", or "null_slot" with one slot more, for the zero vector.
        num_rows: Rows that the server receives.

    Raises:
        ValueError: If ``kind`` is unknown.
    """

    def __init__(self, kind: str, num_rows: int) -> None:
        self.kind = check_choice("action", kind, ("credits", "null_slot"))
        self.num_rows = num_rows
        self.size = num_rows + (kind == "null_slot")
        self.space = spaces.Box(0.0, 1.0, (self.size,), np.float32)

    def decode(self, actions: np.ndarray, num_envs: int, device: torch.device) -> Tensor:
        """The credits that the actions ask for.

        An action is divided by its sum; one whose sum is 1 (to 1e-6) passes unchanged, and all zero means
        uniform.

        Args:
            actions: Shape [E, size], finite and not negative.
            num_envs: E.
            device: Where the credits go.

        Returns:
            Credits [E, rows], summing to 1 (to at most 1 with a null slot).

        Raises:
            ValueError: If the shape is wrong or an entry negative, NaN or infinite.
        """
        try:
            actions = np.asarray(actions)
            actions = actions if actions.dtype.kind == "f" else actions.astype(np.float64, casting="safe")
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"action must be an array of numbers, got {actions!r}") from None
        if actions.shape[:1] != (num_envs,):
            raise ValueError(
                f"action must have one row for each of {num_envs} environments, got {actions.shape}"
            )
        if actions.shape[1:] != (self.size,):
            raise ValueError(
                f"action must have shape {(self.size,)} per environment, got {actions.shape[1:]}"
            )
        # NumPy, because for so few numbers each operation of torch costs several times as much.
        if not (actions.min() >= -1e-6 and actions.max() < np.inf):  # false for NaN, too
            bad = int(np.flatnonzero(~((actions >= -1e-6) & (actions < np.inf)).all(1))[0])
            raise ValueError(f"action must be finite and not negative, got {actions[bad].tolist()}")
        values = np.maximum(actions, 0, dtype=np.float64)
        if values.max() > 1e300:  # the sum might overflow
            values /= values.max(1, keepdims=True)
        total = values.sum(1, keepdims=True)
        if not total.all():
            values, total = np.where(total > 0, values, 1 / self.size), np.where(total > 0, total, 1)
        values /= np.where(np.abs(total - 1) <= 1e-6, 1, total)
        return torch.from_numpy(values[:, : self.num_rows].astype(np.float32)).to(device)

    def accepted(self, credits: Tensor, rejected: Tensor) -> Tensor:
        """Take the credit of rejected rows away.

        It goes to the accepted rows in proportion (uniformly where they had none), or to the zero vector
        where there is a slot for it.

        Args:
            credits: Shape [E, rows].
            rejected: Bool, shape [E, rows].
        """
        if self.kind == "null_slot":
            return credits.masked_fill(rejected, 0)
        return accepted(credits, rejected)
