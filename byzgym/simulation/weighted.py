"""Gradients of losses in which each sample has a weight of its own, for attacks that craft their loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from byzgym.simulation.gradients import GradientEngine


def weighted_gradients(
    engine: GradientEngine, theta: Tensor, x: Tensor, y: Tensor, weights: Tensor
) -> Tensor:
    """Gradients [m, d] of ``sum_b weight_b loss_b / B`` for m workers, detached, without dropout.

    Args:
        engine: Of the model.
        theta: The parameters at which each worker computes its gradient, [m, d].
        x: Inputs, [m, B, ...].
        y: Labels, [m, B].
        weights: Of the samples, [m, B].
    """
    with torch.enable_grad():
        theta = theta.detach().requires_grad_()
        log_p = F.log_softmax(engine.logits(theta, x), dim=2)
        losses = -log_p.gather(2, y[..., None])[..., 0]
        (gradient,) = torch.autograd.grad((weights.to(losses.dtype) * losses).sum() / y.shape[1], theta)
    return gradient
