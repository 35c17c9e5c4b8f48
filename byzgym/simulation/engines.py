"""Which way to compute gradients suits a model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from byzgym.simulation.gradients import DenseEngine, GradientEngine
from byzgym.simulation.modules import ModuleEngine


def engine_for(module: nn.Module, x: Tensor, y: Tensor) -> GradientEngine:
    """The fastest engine that can compute gradients of ``module``.

    Args:
        module: Maps inputs [B, ...] to logits [B, C].
        x: A few inputs, to try it on.
        y: Their labels.

    Raises:
        ValueError: If the module draws random numbers in evaluation mode, changes its buffers, or has
            hooks on parameters.
        RuntimeError: What the module raises itself.
    """
    # Not `children`, which leaves out a layer's second appearance.
    layers = list(module) if type(module) is nn.Sequential else []
    if layers and type(layers[0]) is nn.Flatten and (layers[0].start_dim, layers[0].end_dim) == (1, -1):
        layers = layers[1:]
    linear, between = layers[::2], layers[1::2]
    if (
        len(layers) % 2 == 1
        and len(list(module.parameters())) == 2 * len(linear)  # none shared by two layers
        and all(type(layer) is nn.Linear and layer.bias is not None for layer in linear)
        and all(type(layer) is nn.ReLU for layer in between)
        and not any(_has_hooks(part) for part in (*module.modules(), *module.parameters()))
    ):
        return DenseEngine(linear)  # type: ignore[arg-type]
    hooked = [name for name, parameter in module.named_parameters() if parameter._backward_hooks]
    if hooked:
        raise ValueError(f"model must not have hooks on parameters, which have no effect here, got {hooked}")
    engine = ModuleEngine(module)
    engine.try_on(x, y)
    return engine


def _has_hooks(part: Any) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(part, kind, None) for kind in kinds)
