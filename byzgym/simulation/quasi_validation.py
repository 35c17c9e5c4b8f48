"""The server's own few samples, and the loss on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from byzgym.ambient import without_autocast
from byzgym.numerics.distances import row_norms
from byzgym.numerics.finite import finite_gradient, finite_loss
from byzgym.simulation.batches import described
from byzgym.simulation.config import Setup
from byzgym.simulation.gradients import GradientEngine
from byzgym.tasks import Task
from byzgym.validation import blamed


class QuasiValidation:
    """The quasi-validation (QV) sets of E environments, and the model's loss on them.

    This object knows the model and the QV samples and nothing else of the simulation, because it is handed
    to agents with the `ServerView`. Samples x [q, ...] and labels y [q] of one environment tell the shapes.
    """

    def __init__(self, engine: GradientEngine, num_envs: int, x: Tensor, y: Tensor, num_classes: int) -> None:
        self._engine, self._num_classes = engine, num_classes
        self.x = x.new_zeros(num_envs, *x.shape)  # [E, q, ...]
        self.y = y.new_zeros(num_envs, *y.shape)  # [E, q]

    def assign(self, envs: Sequence[int], samples: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Give some environments their samples x [q, ...] and labels y [q].

        The tensors are replaced, not written into: graphs of earlier losses may still hold them.
        """
        index = torch.tensor(envs, device=self.x.device)
        x, y = zip(*samples, strict=True)
        self.x, self.y = (
            self.x.index_put((index,), torch.stack(x)),
            self.y.index_put((index,), torch.stack(y)),
        )

    @without_autocast
    def loss(self, theta: Tensor) -> Tensor:
        """Mean loss [E] at theta [E, d], differentiable in theta."""
        return self._engine.loss(theta, self.x, self.y)

    @without_autocast
    def loss_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Loss [E] and gradient [E, d] at theta [E, d], both detached and finite."""
        loss, gradient = self._engine.loss_and_gradient(theta, self.x, self.y)
        return finite_loss(loss), finite_gradient(gradient)

    @without_autocast
    def per_sample(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients and label contrasts of the samples at theta [E, d], each [E, q, d]; see `ServerView`."""
        own = torch.nn.functional.one_hot(self.y, self._num_classes).to(theta.dtype)  # [E, q, C]
        others = own.amax(1, keepdim=True) * (1 - own)  # the labels in the set that are not the sample's
        others = others / others.sum(2, keepdim=True).clamp(min=1)
        contrast = torch.where(others.any(2, keepdim=True), own - others, 0)
        rows = self._engine.sample_gradients(theta, self.x, torch.cat([own, contrast], 1))
        gradients, contrasts = finite_gradient(rows).tensor_split(2, dim=1)
        contrasts = without(contrasts, self._preferences(theta))
        return gradients, finite_gradient(contrasts)

    def _preferences(self, theta: Tensor) -> Tensor:
        """The gradients for preferring each sample's label whatever the input, less their mean: [E, q, d]."""
        num_envs, q = self.y.shape
        x = self.x[:, None].expand(-1, q, *self.x.shape[1:]).flatten(0, 1)
        y = self.y[..., None].expand(-1, -1, q).flatten(0, 1)
        gradients = self._engine.loss_and_gradient(theta.repeat_interleave(q, 0), x, y)[1]
        gradients = finite_gradient(gradients).view(num_envs, q, -1)
        return gradients - gradients.mean(1, keepdim=True)


def without(rows: Tensor, others: Tensor) -> Tensor:
    """Rows [E, m, d] without their projections on the span of others [E, k, d]."""
    scale = row_norms(others).amax(1).clamp(min=1e-30)[:, None, None]
    others = others / scale.to(others.dtype)
    products = (others @ others.mT).double()
    inverse = torch.linalg.pinv(products, rtol=1e-5, hermitian=True)
    shares = (rows @ others.mT).double() @ inverse  # [E, m, k]
    return rows - shares.to(rows.dtype) @ others


def draw_samples(setup: Setup, task: Task, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Samples x [q, ...] and labels y [q] of a task from the QV source, which may be anybody's code."""
    size, source = setup.qv_size, setup.qv_source_name
    with blamed(f"qv_source {source}"):
        samples = setup.draw_qv(task, size, generator)
    if (
        isinstance(samples, tuple | list)
        and all(isinstance(part, Tensor) for part in samples)
        and [part.shape for part in samples] == [(size, *task.input_shape), (size,)]
        and bool(samples[0].isfinite().all())
        and samples[1].dtype == torch.int64
        and bool(((samples[1] >= 0) & (samples[1] < task.num_classes)).all())
    ):
        x, y = samples
        return x.detach().to(setup.device, torch.float32), y.to(setup.device)
    raise ValueError(
        f"qv_source {source} must return {size} finite samples of shape {task.input_shape} and their labels, "
        f"int64 of shape ({size},) from 0 to {task.num_classes - 1}, got {described(samples)}"
    )
