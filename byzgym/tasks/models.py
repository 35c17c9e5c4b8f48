"""Models by strings, some with sizes: "softmax", "mlp:128,128", "lenet", "embedding_bag:16384,16" ..."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from byzgym import specs
from byzgym.ambient import seeded, shielded
from byzgym.registry import Registry
from byzgym.validation import check_int, shown

registry: Registry[nn.Module] = Registry("model")
names = registry.names
register = registry.register

_KEPT_BY_TORCH = frozenset(vars(nn.Module()))


@shielded
def build(
    spec: str,
    input_shape: Sequence[int],
    num_classes: int,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Build a model that maps inputs [B, *input_shape] to logits [B, num_classes].

    Batch normalisation is replaced, see `replace_batch_norm`.

    Args:
        spec: A name, or ``"name:sizes"`` with positive integers separated by commas, such as "mlp:128,128". A
            factory of your own, ``register("mine", factory)``, is called as
            ``factory(input_shape, num_classes, *sizes)`` and returns an nn.Module. ``"mine:key=value,..."``
            gives it parameters by name instead.
        input_shape: Shape of one input, for example (3, 32, 32).
        num_classes: Number of classes, at least 2.
        generator: Source of the initial parameters, lent to the global generators of torch, NumPy and Python.
            If None, these are used as they are.

    Raises:
        ValueError: If the model is unknown, its sizes or parameters do not fit, it cannot take such inputs,
            or it has no parameters, frozen ones or sparse gradients.
        TypeError: If ``spec`` is not a string, or a registered factory returns no nn.Module.

    Example:
        >>> model = build("mlp:32", input_shape=(1, 8, 8), num_classes=10, generator=torch.Generator())
        >>> model(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """
    name, sizes, parameters = _parse(spec)
    shape = tuple(check_int("input_shape", size, 1) for size in input_shape)
    check_int("num_classes", num_classes, 2)
    factory = registry.factory(name)
    signature = inspect.signature(factory)
    try:
        signature.bind(shape, num_classes, *sizes, **parameters)
    except TypeError:
        allowed = ", ".join(map(str, list(signature.parameters.values())[2:])) or "none"
        kind = "parameters" if parameters else "sizes"
        raise ValueError(
            f"model {spec!r} has {kind} that do not fit; the {kind} it takes: {allowed}"
        ) from None
    with nullcontext() if generator is None else seeded(generator):
        module = factory(shape, num_classes, *sizes, **parameters)
        if not isinstance(module, nn.Module):
            raise TypeError(f"the factory of model {name!r} must return an nn.Module, got {shown(module)}")
        module = replace_batch_norm(module)
        _check_parameters(spec, module)
        with seeded(torch.Generator()) if generator is None else nullcontext():  # dropout draws too
            _check_output(spec, module, shape, num_classes)
    return module


@contextmanager
def unchanged_attributes(module: nn.Module) -> Iterator[None]:
    """Put back the attributes of a module and its parts that a call changes, such as a counter of calls.

    Lists, dicts and sets are put back with what was in them. Parameters and buffers are left alone.
    """
    saved = [
        (vars(part), {name: value for name, value in vars(part).items() if name not in _KEPT_BY_TORCH})
        for part in module.modules()
    ]
    contents = [(v, v.copy()) for _, own in saved for v in own.values() if isinstance(v, list | dict | set)]
    try:
        yield
    finally:
        for attributes, own in saved:
            for name in attributes.keys() - own.keys() - _KEPT_BY_TORCH:
                del attributes[name]
            attributes.update(own)
        for container, content in contents:
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(content)


def replace_batch_norm(module: nn.Module) -> nn.Module:
    """Turn every BatchNorm into a GroupNorm of the same scale, shift and eps.

    A worker's gradient must depend on its own samples alone, and each sample's loss on that sample; batch
    statistics and their running averages break both. The groups are the most, up to 32, that divide the
    channels and leave two channels or more to each; for BatchNorm1d, whose inputs may have no further
    dimension to average over, it is one group.

    Source: Wu and He 2018, "Group Normalization" (https://arxiv.org/abs/1803.08494).

    Args:
        module: Changed in place and returned, unless it is a BatchNorm itself.
    """
    if isinstance(module, _BatchNorm):
        return _group_norm(module)
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = replace_batch_norm(child)
    return module


def _group_norm(norm: _BatchNorm) -> nn.GroupNorm:
    channels = norm.num_features
    most = 1 if isinstance(norm, nn.BatchNorm1d) else min(32, channels // 2)
    groups = max((g for g in range(1, most + 1) if channels % g == 0), default=1)
    replacement = nn.GroupNorm(groups, channels, eps=norm.eps, affine=norm.affine)
    if norm.affine:
        replacement.weight, replacement.bias = norm.weight, norm.bias
    return replacement.train(norm.training)


def _parse(spec: str) -> tuple[str, tuple[int, ...], dict[str, Any]]:
    """Its name, sizes and parameters."""
    if not isinstance(spec, str):
        raise TypeError(f"model must be a string such as 'mlp:32', got {shown(spec)}")
    name, colon, text = spec.partition(":")
    if "=" in text:
        parameters = specs.parse(spec)
        return parameters.pop("name"), (), parameters
    parts = [part.strip() for part in text.split(",")] if colon else []
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"the sizes of a model must be positive integers separated by commas, got {spec!r}")
    return name, tuple(int(part) for part in parts), {}


def _check_parameters(spec: str, module: nn.Module) -> None:
    parameters = dict(module.named_parameters())
    if not parameters:
        raise ValueError(f"model {spec!r} must have parameters, got none")
    frozen = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    if frozen:
        raise ValueError(
            f"all parameters of model {spec!r} must require gradients, since workers send one for each; "
            f"frozen: {', '.join(frozen)}"
        )
    sparse = [name for name, part in module.named_modules() if getattr(part, "sparse", False) is True]
    if sparse:
        raise ValueError(f"model {spec!r} must have dense gradients, but sparse=True in {', '.join(sparse)}")


def _check_output(spec: str, module: nn.Module, input_shape: tuple[int, ...], num_classes: int) -> None:
    inputs = torch.zeros(2, *input_shape, device=next(module.parameters()).device)
    try:
        with torch.no_grad(), unchanged_attributes(module):
            logits: Any = module(inputs)
    except Exception as error:
        raise ValueError(f"model {spec!r} cannot take inputs of shape {input_shape}: {error}") from error
    shape = getattr(logits, "shape", type(logits).__name__)
    if shape != (2, num_classes):
        raise ValueError(
            f"model {spec!r} must map inputs [B, {', '.join(map(str, input_shape))}] to [B, {num_classes}], "
            f"got {shape} for B = 2"
        )


@registry.built_in("softmax")
def softmax(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Softmax regression: one linear layer."""
    return _perceptron(input_shape, num_classes, ())


@registry.built_in("mlp")
def mlp(input_shape: tuple[int, ...], num_classes: int, *widths: int) -> nn.Module:
    """A multi-layer perceptron with ReLU and one hidden layer or more, of the given widths."""
    if not widths:
        raise ValueError("model 'mlp' needs the widths of its hidden layers, for example 'mlp:128,128'")
    return _perceptron(input_shape, num_classes, widths)


@registry.built_in("xie_mlp")
def xie_mlp(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The "mlp:128,128" of Xie, Koyejo and Gupta 2018 (https://arxiv.org/abs/1802.10116), table 2."""
    return _perceptron(input_shape, num_classes, (128, 128))


@registry.built_in("xie_cnn")
def xie_cnn(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The CNN with dropout of Xie et al. 2018 (https://arxiv.org/abs/1802.10116), table 3, from 4 x 4."""
    channels, height, width = image_shape("xie_cnn", input_shape, at_least=4)
    return nn.Sequential(
        *_xie_block(channels, 32),
        *_xie_block(32, 64),
        nn.Flatten(),
        *(nn.Linear(64 * (height // 4) * (width // 4), 512), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.2)),
        nn.Linear(512, num_classes),
    )


@registry.built_in("embedding_bag")
def embedding_bag(
    input_shape: tuple[int, ...], num_classes: int, buckets: int = 16_384, width: int = 16
) -> nn.Module:
    """The sum of the vectors of a text's n-grams over the square root of their number, and one linear layer.

    Inputs are numbers of n-grams, from 1, as `yelp` gives them with ``features="ids"``; zeros, which fill up
    a short text, count for nothing. The rest of a number by ``buckets`` is the number of its vector, which
    has the given width.

    fastText takes the mean instead. The gradient of a vector is then smaller by the square root of the number
    of n-grams, so that steps of one size for all parameters teach it hardly anything in hundreds of rounds.

    Source: fastText, Joulin, Grave, Bojanowski and Mikolov 2017, "Bag of Tricks for Efficient Text
    Classification" (https://arxiv.org/abs/1607.01759).
    """
    check_int("buckets", buckets, low=1)
    check_int("width", width, low=1)
    return nn.Sequential(_EmbeddingBag(buckets, width), nn.Linear(width, num_classes))


class _EmbeddingBag(nn.Module):
    """nn.EmbeddingBag does not go through vmap."""

    def __init__(self, buckets: int, width: int) -> None:
        super().__init__()
        self.buckets = buckets
        self.vectors = nn.Embedding(buckets, width)
        nn.init.uniform_(self.vectors.weight, -1 / width, 1 / width)  # as fastText does

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map numbers [B, L] to [B, width]."""
        ids = x.flatten(1).long()
        known = (ids > 0).to(x.dtype)[..., None]  # [B, L, 1]
        vectors = self.vectors(ids.remainder(self.buckets)) * known
        return vectors.sum(1) / known.sum(1).clamp(min=1).sqrt()


@registry.built_in("lenet")
def lenet(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """LeNet-5 with ReLU and max pooling; images of 16 x 16 or more.

    Source: Y. LeCun et al., "Gradient-based learning applied to document recognition" (1998), in the form
    common for CIFAR-10: convolutions 6 and 16 of 5 x 5, then linear layers of 120 and 84.
    """
    channels, height, width = image_shape("lenet", input_shape, at_least=16)
    rows, columns = (((size - 4) // 2 - 4) // 2 for size in (height, width))
    return nn.Sequential(
        *(nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *(nn.Linear(16 * rows * columns, 120), nn.ReLU()),
        *(nn.Linear(120, 84), nn.ReLU()),
        nn.Linear(84, num_classes),
    )


def _perceptron(input_shape: tuple[int, ...], num_classes: int, widths: tuple[int, ...]) -> nn.Module:
    """Exactly Flatten, Linear, ReLU, ..., Linear: per-worker gradients have a fast path for this sequence."""
    modules: list[nn.Module] = [nn.Flatten()]
    features = math.prod(input_shape)
    for width in widths:
        modules += [nn.Linear(features, width), nn.ReLU()]
        features = width
    return nn.Sequential(*modules, nn.Linear(features, num_classes))


def _xie_block(inputs: int, outputs: int) -> list[nn.Module]:
    convolutions = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)]
    return [convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2)]


def image_shape(name: str, input_shape: tuple[int, ...], at_least: int) -> tuple[int, int, int]:
    """Channels, height and width; a ValueError unless model ``name`` can take such inputs."""
    if len(input_shape) != 3 or min(input_shape[1:]) < at_least:
        raise ValueError(
            f"model {name!r} needs inputs of shape (channels, height, width) with height and width of at "
            f"least {at_least}, got {input_shape}"
        )
    return input_shape[0], input_shape[1], input_shape[2]
