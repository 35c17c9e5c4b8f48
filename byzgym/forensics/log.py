"""What a server keeps of its rounds, so that its workers can be judged later."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import torch
from torch import Tensor

from byzgym.aggregation import Decision, ServerView
from byzgym.ambient import without_autocast
from byzgym.forensics.copies import near_copies
from byzgym.forensics.trace import Trace
from byzgym.numerics.distances import row_norms
from byzgym.validation import check_int, check_kind, check_tensor

MEMORY = 10
"""Rounds over which the mean of the past updates forgets: it is m <- (1 - 1/10) m + 1/10 update."""


class Log:
    """The last rounds of E runs: call `add` once a round, and `trace` when you want to look.

    It works in a simulation and in a training job, and sees only what the server sees. It keeps 20 bytes per
    worker and round, for at most ``rounds`` rounds, and one vector [E, d]: 10 MB for 50 workers, the default
    10,000 rounds and one run. A round takes the inner products of all submissions, as in Krum.

    Args:
        rounds: How many rounds to keep, at least 1; earlier ones are forgotten.

    Example:
        >>> from byzgym import agents
        >>> from byzgym.simulation import Simulation
        >>> simulation = Simulation.make(task="synthetic", num_byzantine=3, attack="ipm", seed=0)
        >>> policy, log = agents.build("faba", simulation), Log()
        >>> for _ in range(20):
        ...     decision = policy.decide(simulation.view)
        ...     log.add(simulation.view, decision)
        ...     simulation.apply(decision)
        >>> log.trace().credits.shape
        (20, 10)
    """

    def __init__(self, rounds: int = 10_000) -> None:
        self._kept: deque[dict[str, np.ndarray]] = deque(maxlen=check_int("rounds", rounds, low=1))
        self.reset()

    def reset(self) -> None:
        """Forget everything: new runs begin."""
        self._kept.clear()
        self._count = 0
        self._past: Tensor | None = None  # [E, d]

    @property
    def num_rounds(self) -> int:
        """Rounds since the runs began, also those that are forgotten."""
        return self._count

    @torch.no_grad()
    @without_autocast
    def add(self, view: ServerView, decision: Decision) -> None:
        """Note a round: what the server received, and what the policy decided.

        Args:
            view: The round. Where it has QV samples, their loss is noted.
            decision: Of any policy, with credits or without.

        Raises:
            TypeError: If these are something else.
            ValueError: If the shapes are not those of the view or of the rounds before; nothing changes then.
        """
        check_kind("view", view, ServerView, "a ServerView")
        check_kind("decision", decision, Decision, "a Decision")
        if view.workers is not None:
            raise ValueError(
                "view must be of all workers, which the log tells apart by their rows, got "
                f"{view.num_workers} of {view.total_workers}"
            )
        gradients, update = view.gradients, decision.update
        check_tensor("update", update, *view.theta.shape)
        if decision.credits is not None:
            check_tensor("credits", decision.credits, view.num_envs, view.num_workers)
        if self._past is None:
            self._past = torch.zeros_like(update)
        if self._kept:
            known = (*self._past.shape, self._kept[-1]["norm"].shape[1])
            given = (*update.shape, view.num_workers)
            if known != given:
                raise ValueError(
                    f"view must have E, d, n = {known} as in the rounds before, got {given}; for other runs "
                    "call reset first"
                )
        norms = row_norms(gradients).clamp(max=torch.finfo(torch.float32).max)
        past = row_norms(self._past)
        unit = self._past / past.clamp(min=torch.finfo(past.dtype).tiny)[:, None]
        lengths = norms.clamp(min=torch.finfo(norms.dtype).tiny)
        cosine = ((gradients @ unit.to(gradients)[:, :, None])[..., 0] / lengths).clamp(-1, 1)
        unknown = (past == 0)[:, None] | (norms == 0) | view.rejected
        entry = {
            "cosine": cosine.masked_fill(unknown, torch.nan),
            "norm": norms.masked_fill(view.rejected, torch.nan),
            "copy_of": near_copies(gradients).to(torch.int32),
            "rejected": view.rejected,
            "credits": torch.full_like(norms, torch.nan) if decision.credits is None else decision.credits,
            "qv_loss": view.theta.new_full((view.num_envs,), math.nan)
            if view.qv_loss is None and view.qv_loss_and_gradient is None
            else view.qv_value,
            "update_norm": row_norms(update),
        }
        self._kept.append({name: _to_numpy(values) for name, values in entry.items()})
        # A run that explodes must not spoil the direction for good.
        moved = self._past + (update.detach() - self._past) / MEMORY
        self._past = torch.where(moved.isfinite().all(1, keepdim=True), moved, self._past)
        self._count += 1

    def trace(self, run: int = 0, last: int | None = None) -> Trace:
        """What is kept of one run.

        Args:
            run: Its number, from 0 to E - 1.
            last: How many of the last rounds, at least 1; all that are kept where None.

        Raises:
            ValueError: If there is no such run, or no round has been noted.
        """
        if not self._kept:
            raise ValueError("the log is empty: add a round first")
        check_int("run", run, low=0, high=len(self._kept[-1]["norm"]) - 1)
        kept = list(self._kept)
        if last is not None:
            kept = kept[-check_int("last (unless None)", last, low=1) :]
        values = {name: np.stack([entry[name][run] for entry in kept]) for name in kept[0]}
        return Trace(round=np.arange(self._count - len(kept), self._count), **values)


def _to_numpy(values: Tensor) -> np.ndarray:
    values = values.detach().to("cpu", copy=True)
    return (values.float() if values.is_floating_point() else values).numpy()
