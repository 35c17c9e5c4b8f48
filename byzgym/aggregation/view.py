"""What an honest server knows in one round, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from byzgym.memory import Memory
from byzgym.numerics.finite import finite_gradient, finite_loss, finite_rows
from byzgym.validation import blamed, check_tensor


@dataclass(eq=False, repr=False)
class ServerView:
    """All that the server holds in a round, for E independent runs (environments) at once.

    Policies and the observation builder take this record and nothing else, so Byzantine masks, test data and
    honest gradients cannot reach them. The simulation makes it; a training job outside the simulation can
    make it in the same way. Only the first four fields are required.

    The tensors are the server's own, not copies: read them during the round, clone what you keep, and do not
    write into them.

    Attributes:
        gradients: The submissions as received; rejected rows are zero. Where ``rejected`` is not given, rows
            with a NaN or infinite entry are rejected here, in a copy.
        theta: The parameters at which the gradients were computed.
        learning_rate: The step size that the server will apply in this round; a number will do.
        qv_loss: Maps parameters [E, d] to the mean loss on the quasi-validation (QV) samples [E],
            differentiable. None in a job without QV samples.
        round: Rounds since the start of each run. Where None, the views made with this memory are counted.
        rejected: Submissions with a NaN or infinite entry; they get no credit.
        previous_update: The update that the last round applied (zero in round 0).
        previous_credits: The credits of the last round that had any (uniform at first), or of the last one in
            which the worker took part.
        memory: What rules keep from round to round. A job passes the same `Memory` in every round. What is
            read here was written in earlier rounds, so that a rule may be asked several times in a round.
            None where there is none; rules that need it then say so.
        seed: Of the server's own draws in each run, such as the buckets of `bucketing`, int64, at least 0;
            zeros where None.
        qv_loss_and_gradient: Optional faster way to the loss [E] and its gradient [E, d], both detached.
        qv_per_sample: Optional: maps parameters [E, d] to the gradients of the QV samples' own losses and to
            their label contrasts, each [E, q, d] and detached; see `qv_sample_gradients` and `qv_contrasts`.
            A job that has no labels gives None for the contrasts.
        workers: Who submitted, where not everybody takes part in every round: numbers from 0 to
            ``total_workers - 1``, in each run different ones. Where None, row i is worker i.
        total_workers: The number of workers of which some take part; n where None.

    Raises:
        TypeError: If ``gradients`` or ``theta`` is no dense tensor of real numbers.
        ValueError: If the shapes of ``gradients``, ``theta`` and ``learning_rate`` do not fit, or ``workers``
            are no such numbers.

    Example:
        >>> gradients, theta = torch.tensor([[[1.0], [3.0]]]), torch.zeros(1, 1)
        >>> view = ServerView(gradients, theta, 0.1, qv_loss=lambda theta: theta[:, 0] ** 2)
        >>> view.num_workers, view.qv_value
        (2, tensor([0.]))
    """

    gradients: Tensor  # [E, n, d]
    theta: Tensor  # [E, d]
    learning_rate: Tensor  # [E]
    qv_loss: Callable[[Tensor], Tensor] | None  # [E, d] -> [E]
    round: Tensor = None  # type: ignore[assignment]  # [E] int64
    rejected: Tensor = None  # type: ignore[assignment]  # [E, n] bool
    previous_update: Tensor = None  # type: ignore[assignment]  # [E, d]
    previous_credits: Tensor = None  # type: ignore[assignment]  # [E, n]
    memory: Memory | None = None
    seed: Tensor = None  # type: ignore[assignment]  # [E] int64
    qv_loss_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    qv_per_sample: Callable[[Tensor], tuple[Tensor, Tensor | None]] | None = None
    workers: Tensor | None = None  # [E, n] int64
    total_workers: int | None = None
    _qv: tuple[Tensor, Tensor] | None = field(default=None, init=False)
    _qv_samples: tuple[Tensor, Tensor | None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Fill the optional fields with their values at the start of a run."""
        check_tensor("gradients", self.gradients, "E", "n", "d")
        num_envs, num_workers, dimension = self.gradients.shape
        check_tensor("theta", self.theta, num_envs, dimension)
        device = self.gradients.device
        rate = torch.as_tensor(self.learning_rate, dtype=self.theta.dtype, device=device)
        if rate.shape not in ((), (num_envs,)):
            raise ValueError(f"learning_rate must have shape [E] = [{num_envs}], got {tuple(rate.shape)}")
        self.learning_rate = rate.expand(num_envs)
        if self.memory is not None and self.memory.num_envs != num_envs:
            raise ValueError(f"memory must be of {num_envs} runs, got one of {self.memory.num_envs}")
        if self.round is None:
            self.round = torch.zeros(num_envs, dtype=torch.int64, device=device)
            if self.memory is not None:
                self.round = self.memory.read("rounds", dtype=torch.int64)
                self.memory.write("rounds", self.round + 1)
        if self.rejected is None:
            self.rejected = ~finite_rows(self.gradients)
            if self.rejected.any():
                self.gradients = self.gradients.masked_fill(self.rejected[..., None], 0)
        if self.seed is None:
            self.seed = torch.zeros(num_envs, dtype=torch.int64, device=device)
        if self.previous_update is None:
            self.previous_update = torch.zeros_like(self.theta)
        if self.previous_credits is None:
            self.previous_credits = self.gradients.new_full((num_envs, num_workers), 1 / num_workers)

        if self.total_workers is None:
            self.total_workers = num_workers
        _check_workers(self.workers, (num_envs, num_workers), self.total_workers)
        if self.memory is not None:
            self.memory = self.memory.at(self.round)

    @property
    def num_envs(self) -> int:
        """E, the number of runs in this record."""
        return self.gradients.shape[0]

    @property
    def num_workers(self) -> int:
        """The number n of submissions per run (of groups, where secure groups hide single workers)."""
        return self.gradients.shape[1]

    @property
    def qv_value(self) -> Tensor:
        """The QV loss at ``theta``, shape [E], detached."""
        return self._quasi_validation()[0]

    @property
    def qv_gradient(self) -> Tensor:
        """The gradient of the QV loss at ``theta``, shape [E, d], computed when first asked for."""
        return self._quasi_validation()[1]

    @property
    def qv_sample_gradients(self) -> Tensor:
        """The gradient of each QV sample's own loss at ``theta``, shape [E, q, d], when first asked for.

        In a job without `qv_per_sample` this is the gradient of the mean loss alone, [E, 1, d].
        """
        return self._per_sample()[0]

    @property
    def qv_contrasts(self) -> Tensor | None:
        """The label contrast of each QV sample at ``theta``, shape [E, q, d]; None where the job has none.

        This is the gradient of the loss of sample k on its own label less the mean of its losses on the other
        labels in the QV set, without its projection on the gradients that make the model prefer one of these
        labels whatever the input. So it does not depend on how frequent the classes are, and it tells wrong
        labels from few classes. Zero if all samples have one label.
        """
        return self._per_sample()[1]

    @torch.inference_mode(False)
    def qv_at(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The QV loss [E] and its gradient [E, d] at other parameters [E, d], both detached and finite.

        A loss that is not finite becomes 1e30, and an entry of the gradient zero.

        Raises:
            ValueError: If the job has no QV samples, or what it computes has another shape.
        """
        if self.qv_loss_and_gradient is not None:
            with blamed("qv_loss_and_gradient"):
                loss, gradient = self.qv_loss_and_gradient(theta)
        elif self.qv_loss is None:
            raise ValueError("the ServerView has no qv_loss: this job has no quasi-validation samples")
        else:
            loss, gradient = differentiated(self.qv_loss, theta)
        check_tensor("the QV loss", loss, self.num_envs)
        check_tensor("the gradient of the QV loss", gradient, *self.theta.shape)
        return finite_loss(loss.detach()), finite_gradient(gradient)

    def recall(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """What was kept with `keep` of each worker that has submitted, [E, n, *shape]; zeros at first.

        Raises:
            ValueError: If the view has no memory, or it holds another shape or type.
        """
        memory = self._memory()
        if self.workers is None:
            return memory.read(name, self.num_workers, *shape, dtype=dtype)
        assert self.total_workers is not None
        return memory.read_of(self.workers, self.total_workers, name, *shape, dtype=dtype)

    def keep(self, name: str, values: Tensor) -> None:
        """Keep a value [E, n, ...] of each worker that has submitted, in ``memory``, until it does so again.

        Workers are told apart by their numbers, so that this works where not everybody takes part in a round.

        Raises:
            ValueError: If the view has no memory, or it holds another shape or type.
        """
        memory = self._memory()
        if self.workers is None:
            memory.write(name, values)
        else:
            assert self.total_workers is not None
            memory.write_of(self.workers, self.total_workers, name, values)

    def _memory(self) -> Memory:
        if self.memory is None:
            raise ValueError("no memory: build every ServerView with the same Memory(num_envs)")
        return self.memory

    @torch.inference_mode(False)
    def of(self, runs: Tensor) -> ServerView:
        """What is known of some of the runs only.

        Args:
            runs: Their numbers, each once, int64, shape [m].
        """
        if len(runs.unique()) < len(runs):
            raise ValueError(f"runs must name each run once, got {runs.tolist()}")
        loss, fast, single = self.qv_loss, self.qv_loss_and_gradient, self.qv_per_sample
        return ServerView(
            gradients=self.gradients[runs],
            theta=self.theta[runs],
            learning_rate=self.learning_rate[runs],
            qv_loss=None if loss is None else partial(_in_part, loss, self.theta, runs),
            qv_loss_and_gradient=None if fast is None else partial(_in_part, fast, self.theta, runs),
            qv_per_sample=None if single is None else partial(_in_part, single, self.theta, runs),
            round=self.round[runs],
            rejected=self.rejected[runs],
            previous_update=self.previous_update[runs],
            previous_credits=self.previous_credits[runs],
            memory=None if self.memory is None else self.memory.of(runs),
            workers=None if self.workers is None else self.workers[runs],
            total_workers=self.total_workers,
            seed=self.seed[runs],
        )

    def _quasi_validation(self) -> tuple[Tensor, Tensor]:
        if self._qv is None:
            self._qv = self.qv_at(self.theta)
        return self._qv

    @torch.inference_mode(False)
    def _per_sample(self) -> tuple[Tensor, Tensor | None]:
        if self._qv_samples is None:
            if self.qv_per_sample is None:
                self._qv_samples = self.qv_gradient[:, None], None
            else:
                gradients, contrasts = self.qv_per_sample(self.theta)
                shape = self.num_envs, "q", self.theta.shape[1]
                check_tensor("the gradients of qv_per_sample", gradients, *shape)
                if contrasts is not None:
                    check_tensor("the contrasts of qv_per_sample", contrasts, *gradients.shape)
                    contrasts = finite_gradient(contrasts)
                self._qv_samples = finite_gradient(gradients), contrasts
        return self._qv_samples


def differentiated(qv_loss: Callable[[Tensor], Tensor], theta: Tensor) -> tuple[Tensor, Tensor]:
    """A QV loss [E] and its gradient [E, d] at parameters [E, d], both detached.

    Raises:
        TypeError: If the loss is no tensor.
        ValueError: If it has another shape, or cannot be differentiated in theta.
    """
    with torch.enable_grad(), blamed("qv_loss"):
        theta = theta.detach().clone().requires_grad_()
        loss = qv_loss(theta)
        check_tensor("what qv_loss returns", loss, len(theta))
        gradients = (
            torch.autograd.grad(loss.sum(), theta, allow_unused=True) if loss.requires_grad else [None]
        )
    if gradients[0] is None:
        raise ValueError(
            "qv_loss must be differentiable in theta (computed from it, not detached, not under "
            "torch.no_grad()), or qv_loss_and_gradient be given, which is enough for all policies but gaa"
        )
    return loss.detach(), gradients[0]


def _check_workers(workers: Tensor | None, shape: tuple[int, int], total: int) -> None:
    if workers is None:
        if total != shape[1]:
            raise ValueError(f"workers must say who of {total} has submitted, got None for {shape[1]} rows")
        return
    check_tensor("workers", workers, *shape)
    if workers.is_floating_point() or bool(((workers < 0) | (workers >= total)).any()):
        raise ValueError(f"workers must be integers from 0 to {total - 1}, got {workers.tolist()}")
    if bool((workers.sort(1).values.diff(dim=1) == 0).any()):
        raise ValueError(f"workers must be different ones in each run, got {workers.tolist()}")


def _in_part(function: Callable[[Tensor], Any], theta: Tensor, runs: Tensor, part: Tensor) -> Any:
    """Call a function of all parameters [E, d] with those of some runs [m, d]; its results for these."""
    result = function(theta.index_put((runs,), part))
    if isinstance(result, tuple):
        return tuple(None if values is None else values[runs] for values in result)
    return result[runs]
