"""Which way to compute gradients suits a model."""

from __future__ import annotations

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
        ValueError: If the module draws random numbers in evaluation mode.
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
        and not any(_has_hooks(part) for part in module.modules())
    ):
        return DenseEngine(linear)  # type: ignore[arg-type]
    engine = ModuleEngine(module)
    engine.try_on(x, y)
    return engine


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
