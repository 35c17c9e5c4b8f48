"""Per-worker gradients, batched over environments and workers.

An environment's parameters are one flat vector, laid out like `torch.nn.utils.parameters_to_vector`.
`engine_for` chooses the way: a multilayer perceptron goes through a `DenseEngine`, one hand-written pass over
the samples of all workers; any other module goes through a `ModuleEngine`, which uses `torch.func`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from byzgym.simulation.dense import DenseEngine, linear_layers
from byzgym.simulation.modules import ModuleEngine


class GradientEngine(Protocol):
    """Losses and gradients of one model for parameters [E, d]."""

    num_parameters: int
    draws: bool
    """Whether gradients may depend on random numbers: True with dropout, or if vmap needs them or fails."""

    def samples_at_once(self, num_envs: int, sample_size: int) -> int:
        """For how many samples of so many numbers to ask `logits` at once, so that memory suffices."""
        ...

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """Map theta [E, d] and inputs [E, m, ...] to logits [E, m, C], differentiable in theta."""
        ...

    def loss(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross entropy [E] of labels y [E, m], differentiable in theta."""
        ...

    def loss_and_gradient(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross entropy [E] and its gradient [E, d], both detached."""
        ...

    def gradients(
        self,
        theta: Tensor,
        x: Tensor,
        y: Tensor,
        generators: Sequence[torch.Generator],
        out: Tensor,
        rows: Tensor | None = None,
    ) -> None:
        """Write the mean-loss gradients of h workers into rows of out [E, n, d].

        Args:
            theta: Parameters, shape [E, d].
            x: Inputs, shape [E, h, B, ...].
            y: Labels, shape [E, h, B].
            generators: One per environment, for modules that draw random numbers.
            out: Written to.
            rows: Which rows, shape [E, h]; 0 .. n - 1 where None.
        """
        ...


def engine_for(module: nn.Module, x: Tensor, y: Tensor) -> GradientEngine:
    """The fastest engine that can compute gradients of ``module``.

    Args:
        module: Maps inputs [B, ...] to logits [B, C].
        x: A few inputs, to try it on.
        y: Their labels.

    Raises:
        ValueError: If the module draws random numbers in evaluation mode, changes its buffers or tensors in
            place, or has hooks on parameters.
        RuntimeError: What the module raises itself.
    """
    layers = linear_layers(module)
    if layers:
        return DenseEngine(layers)
    engine = ModuleEngine(module)
    engine.try_on(x, y)
    return engine
