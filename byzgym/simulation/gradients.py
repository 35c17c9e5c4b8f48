"""Per-worker gradients, batched over environments and workers.

An environment's parameters are one flat vector, laid out like `torch.nn.utils.parameters_to_vector`. A
multilayer perceptron goes through a `DenseEngine`, any other module through a `ModuleEngine`.
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

    def one_by_one(self, batch_size: int, device: torch.device) -> bool:
        """Whether workers are computed one after the other, so that none depends on who else is."""
        ...

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

    def sample_gradients(self, theta: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        """Gradients [E, k q, d] of -sum_c w_c log p_c(x) for each of q samples and k label weights, detached.

        Inputs are x [E, q, ...] and weights w [E, k q, C]: k times q of them, in the order of the samples.
        """
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
        """Write the mean-loss gradients of h workers into rows [E, h] of out [E, n, d] (all n where None).

        Inputs are x [E, h, B, ...], labels y [E, h, B]; generators, one per environment, are for modules that
        draw random numbers.
        """
        ...


def engine_for(module: nn.Module, x: Tensor, y: Tensor, one_by_one: bool | None = None) -> GradientEngine:
    """The fastest engine for a module from [B, ...] to logits [B, C], tried on a few inputs and their labels.

    Args:
        module: The model.
        x: A few inputs, [B, ...].
        y: Their labels, [B].
        one_by_one: Whether workers are computed one after the other; where None, if that is faster. Modules
            that cannot do otherwise go one by one in any case.

    Raises:
        ValueError: If the module draws random numbers in evaluation mode, changes its buffers or tensors in
            place, or has hooks on parameters.
        RuntimeError: What the module raises itself.
    """
    if not one_by_one and (layers := linear_layers(module)):
        return DenseEngine(layers)
    engine = ModuleEngine(module, one_by_one)
    engine.try_on(x, y)
    return engine
