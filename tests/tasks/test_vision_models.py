import sys

import pytest
import torch
from torch import nn

from byzgym.tasks import models

pytestmark = pytest.mark.global_rng

COLOR = (3, 32, 32)


@pytest.mark.parametrize(
    ("spec", "shape", "count"),
    [
        ("vgg16", COLOR, 14_714_688 + 2 * 4224 + 5130),  # convolutions, normalisations, the last layer
        # torchvision's counts for ten classes, less what the smaller first convolution saves
        ("resnet18", COLOR, 11_181_642 - 64 * 3 * (49 - 9)),
        ("resnet34", COLOR, 21_289_802 - 64 * 3 * (49 - 9)),
        ("resnet50", COLOR, 23_528_522 - 64 * 3 * (49 - 9)),
        ("resnet18:stem=imagenet", COLOR, 11_181_642),
        ("resnet18:stem=imagenet", (1, 28, 28), 11_181_642 - 64 * 2 * 49),
        ("resnet18", (1, 28, 28), 11_181_642 - 64 * (3 * 49 - 9)),
    ],
)
def test_parameter_counts(spec, shape, count):
    model = models.build(spec, shape, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert not list(model.buffers())
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())
    assert model(torch.zeros(1, *shape)).shape == (1, 10)


def sizes(model, kind, shape):
    """Height of what each layer of a kind gives for an image."""
    seen = []
    for part in model.modules():
        if isinstance(part, kind):
            part.register_forward_hook(lambda layer, inputs, output: seen.append(output.shape[2]))
    model(torch.zeros(1, *shape))
    return seen


def test_small_images_stay_large_enough():
    seen = sizes(models.build("resnet18", COLOR, 10), nn.Conv2d, COLOR)
    assert (seen[0], seen[-1], len(seen)) == (32, 4, 20)
    seen = sizes(models.build("resnet18:stem=imagenet", COLOR, 10), nn.Conv2d, COLOR)
    assert (seen[0], seen[-1]) == (16, 1)
    seen = sizes(models.build("vgg16", (1, 32, 32), 10), nn.Conv2d, (1, 32, 32))
    assert seen == [32] * 2 + [16] * 2 + [8] * 3 + [4] * 3 + [2] * 3


def test_a_generator_decides_the_parameters():
    def first(seed):
        return next(models.build("resnet18", COLOR, 10, torch.Generator().manual_seed(seed)).parameters())

    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))


def test_a_broken_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(
        RuntimeError, match=r"torchvision could not be imported.* or use a model that needs none"
    ):
        models.build("resnet18", COLOR, 10)


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ("vgg16", (3, 28, 28), r"model 'vgg16' needs inputs .* at least 32, got \(3, 28, 28\)"),
        ("resnet34", (784,), "model 'resnet34' needs inputs of shape"),
        ("resnet50:stem=large", COLOR, "stem must be one of 'cifar', 'imagenet', got 'large'"),
        ("resnet18:5", COLOR, "stem must be one of 'cifar', 'imagenet', got 5"),
    ],
)
def test_bad_specifications(spec, shape, message):
    with pytest.raises(ValueError, match=message):
        models.build(spec, shape, 10)
