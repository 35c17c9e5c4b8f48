"""Learning-rate schedules of the server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from byzgym.validation import check_choice, check_int, check_real

LARGEST = 1e30
"""Of step sizes: so large that nothing learns, and small enough for single precision."""
SCHEDULES = ("constant", "cosine", "linear", "step", "inverse_time")


class LearningRate:
    """The server's step size as a function of the round.

    Args:
        spec: A positive number, or a mapping with the keys ``initial`` (positive) and ``schedule``:
            "constant"; "cosine" and "linear" fall to ``final`` (default 0, at most ``initial``) after the
            last round; "step" multiplies by ``factor`` (default 0.1, above 0 and at most 1) every ``every``
            rounds (at least 1); "inverse_time" divides by 1 + ``decay`` * round (``decay`` above 0). At most
            1e30 each.
        rounds: The number of rounds of an episode.

    Raises:
        ValueError: If a key is unknown or a value out of its range.
    """

    def __init__(self, spec: float | Mapping[str, Any], rounds: int) -> None:
        options = dict(spec) if isinstance(spec, Mapping) else {"initial": spec}
        name = "learning_rate['initial']" if isinstance(spec, Mapping) else "learning_rate"
        self.initial = check_real(name, options.pop("initial", None), high=LARGEST, above=0)
        self.schedule = check_choice(
            "learning_rate['schedule']", options.pop("schedule", "constant"), SCHEDULES
        )
        self.rounds = rounds
        if self.schedule in ("cosine", "linear"):
            final = options.pop("final", 0.0)
            self.final = check_real("learning_rate['final']", final, low=0, high=self.initial)
        elif self.schedule == "step":
            self.every = check_int("learning_rate['every']", options.pop("every", None), low=1)
            self.factor = check_real("learning_rate['factor']", options.pop("factor", 0.1), above=0, high=1)
        elif self.schedule == "inverse_time":
            self.decay = check_real(
                "learning_rate['decay']", options.pop("decay", None), high=LARGEST, above=0
            )
        if options:
            unknown = ", ".join(map(repr, options))
            raise ValueError(f"learning_rate with the schedule {self.schedule!r} has no key {unknown}")

    def __call__(self, round: Tensor) -> Tensor:
        """The step size [E] in round [E]."""
        if self.schedule == "constant":
            return torch.full(round.shape, self.initial, dtype=torch.float32, device=round.device)
        if self.schedule == "step":
            return self.initial * self.factor ** (round // self.every).float()
        if self.schedule == "inverse_time":
            return self.initial / (1 + self.decay * round.float())
        progress = (round.float() / self.rounds).clamp(max=1)
        if self.schedule == "cosine":
            progress = (1 - torch.cos(math.pi * progress)) / 2
        return self.initial + (self.final - self.initial) * progress
