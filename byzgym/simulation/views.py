"""What the server is shown of a round: what has reached it, and what it remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from byzgym.aggregation import ServerView
from byzgym.ambient import view_seed
from byzgym.memory import Memory
from byzgym.numerics.finite import is_finite
from byzgym.simulation.blocks import Blocks
from byzgym.simulation.config import Setup
from byzgym.simulation.quasi_validation import QuasiValidation
from byzgym.simulation.server import Server, receive
from byzgym.simulation.workers import Workers
from byzgym.validation import check_int


class Views:
    """Makes the `ServerView` of each round.

    It is one of R runs: the E environments, or, with several servers, the servers of all environments.
    """

    def __init__(self, setup: Setup, server: Server, workers: Workers, qv: QuasiValidation) -> None:
        self._setup, self._server, self._workers, self._qv = setup, server, workers, qv
        num_envs, width = server.theta.shape
        num_runs, device = num_envs * setup.num_servers, setup.device
        self.blocks: Blocks | None = None
        """How the parameters are divided among several servers."""
        if setup.num_servers > 1:
            check_int("num_servers", setup.num_servers, low=1, high=width)
            self.blocks = Blocks(width, setup.num_servers, device)
            width = self.blocks.width
        self.memory = Memory(num_runs, device)
        """What rules keep from round to round."""
        self.previous_credits = torch.zeros(num_runs, setup.num_rows, device=device)
        """The credits of the last round that had any, shape [R, rows]; uniform at first."""
        self._last_credits = torch.zeros(num_runs, setup.num_workers, device=device)  # [R, n], of each worker
        self._seeds = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self.rejected = torch.zeros(num_runs, setup.num_rows, dtype=torch.bool, device=device)
        # What is received, [E, rows, d] or in blocks [E S, rows, w], if that is not what workers submit.
        self._received: Tensor | None = None
        if setup.secure_group_size > 1 or self.blocks is not None:
            self._received = torch.zeros(num_runs, setup.num_rows, width, device=device)

    def reset(self, envs: Sequence[int], seeds: Sequence[int]) -> None:
        """Begin new episodes with these seeds in some environments."""
        for env, seed in zip(envs, seeds, strict=True):
            self._seeds[env] = view_seed(seed)
        runs = self._runs(envs)
        self.previous_credits[runs] = self._last_credits[runs] = 1 / self._setup.num_rows
        self.memory.reset(runs)

    def remember(self, credits: Tensor, active: Tensor | None) -> None:
        """Take the credits [R, rows] of this round, from the environments ``active`` [E] (all where None).

        Where a credit is NaN, the last one stays.
        """
        new = credits.detach().to(self.previous_credits, copy=True)
        if active is not None or not is_finite(new):
            given = ~new.isnan()
            if active is not None:
                given &= (active if self.blocks is None else self.blocks.repeat(active))[:, None]
            new = torch.where(given, new, self.previous_credits)
        self.previous_credits = new
        if self._setup.secure_group_size == 1:
            self._last_credits = self._last_credits.scatter(1, self._cohort(), new)

    def receive(self, envs: Sequence[int] | None) -> None:
        """Take in what the workers of some environments (all where None) have submitted."""
        submissions = self._workers.submissions
        if envs is not None:
            submissions = submissions[list(envs)]
        if self.blocks is not None:
            submissions = self.blocks.split(submissions)
        rows, rejected = receive(submissions, self._setup.secure_group_size)
        runs: Any = slice(None) if envs is None else self._runs(envs)
        if envs is not None:
            rejected = self.rejected.index_put((runs,), rejected)  # views keep the old one
        self.rejected = rejected
        if self._received is not None:
            self._received[runs] = rows
        elif envs is not None:
            self._workers.submissions[runs] = rows

    def make(self) -> ServerView:
        """The view of this round."""
        server, qv = self._server, self._qv
        known: dict[str, Any] = {
            "theta": server.theta,
            "learning_rate": server.learning_rate,
            "round": server.round,
            "previous_update": server.previous_update,
            "qv_loss": qv.loss,
            "qv_loss_and_gradient": qv.loss_and_gradient,
            "qv_per_sample": qv.per_sample,
            "seed": self._seeds,
        }
        return ServerView(
            gradients=self._workers.submissions if self._received is None else self._received,
            rejected=self.rejected,
            memory=self.memory,
            **self._who(),
            **(known if self.blocks is None else self.blocks.known(known)),
        )

    def _who(self) -> dict[str, Any]:
        """Last credits; and who has submitted, if not everybody takes part and the server can tell."""
        setup = self._setup
        if setup.cohort_size == setup.num_workers or setup.secure_group_size > 1:
            return {"previous_credits": self.previous_credits}
        cohort = self._cohort()
        credits = self._last_credits.gather(1, cohort)
        return {"workers": cohort, "total_workers": setup.num_workers, "previous_credits": credits}

    def _cohort(self) -> Tensor:
        """The workers of this round, a row for each run."""
        cohort = self._workers.cohort
        return cohort.clone() if self.blocks is None else self.blocks.repeat(cohort)

    def _runs(self, envs: Sequence[int]) -> Tensor:
        """The runs of these environments: the environments, or their servers."""
        index = torch.tensor(envs, dtype=torch.int64, device=self._setup.device)
        return index if self.blocks is None else self.blocks.rows(index)
