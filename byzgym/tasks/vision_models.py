"""Deep image models of torchvision at CIFAR size: "vgg16", "resnet18", "resnet34", "resnet50".

Their BatchNorm becomes GroupNorm, as in every model that `byzgym.tasks.models.build` makes. torchvision is
imported only when one of them is built.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from byzgym.tasks.base import import_torchvision
from byzgym.tasks.models import image_shape, registry
from byzgym.validation import check_choice

InputShape = tuple[int, ...]


@registry.built_in("vgg16")
def vgg16(input_shape: InputShape, num_classes: int) -> nn.Module:
    """VGG-16 with normalisation, with one linear layer on the mean of the last 512 channels.

    Images are of 32 x 32 or more. torchvision's three layers of 4,096 are for images of 224 x 224: they alone
    would have 120 million parameters, where this whole model has 15 million.

    Source: Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition"
    (https://arxiv.org/abs/1409.1556), configuration D.
    """
    channels, *_ = image_shape("vgg16", input_shape, at_least=32)
    vgg = _torchvision().vgg
    features = vgg.make_layers(vgg.cfgs["D"], batch_norm=True)
    if channels != 3:
        features[0] = nn.Conv2d(channels, 64, 3, padding=1)
    for layer in features:
        if isinstance(layer, nn.Conv2d):  # as torchvision initialises them
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes)]
    return nn.Sequential(*features, *head)


@registry.built_in("resnet18")
def resnet18(input_shape: InputShape, num_classes: int, stem: str = "cifar") -> nn.Module:
    """ResNet-18 for small images: it begins with a convolution of 3 x 3 and stride 1, without pooling.

    With ``stem="imagenet"`` it begins as torchvision's does, with 7 x 7, stride 2 and pooling. On images of
    32 x 32 that takes about a fourteenth of the operations, and leaves one pixel to the last block.

    Source: He, Zhang, Ren and Sun 2016, "Deep Residual Learning for Image Recognition"
    (https://arxiv.org/abs/1512.03385).
    """
    return _resnet("resnet18", input_shape, num_classes, stem)


@registry.built_in("resnet34")
def resnet34(input_shape: InputShape, num_classes: int, stem: str = "cifar") -> nn.Module:
    """ResNet-34; see `resnet18`."""
    return _resnet("resnet34", input_shape, num_classes, stem)


@registry.built_in("resnet50")
def resnet50(input_shape: InputShape, num_classes: int, stem: str = "cifar") -> nn.Module:
    """ResNet-50; see `resnet18`."""
    return _resnet("resnet50", input_shape, num_classes, stem)


def _resnet(name: str, input_shape: InputShape, num_classes: int, stem: str) -> nn.Module:
    channels, *_ = image_shape(name, input_shape, at_least=8)
    model: Any = getattr(_torchvision(), name)(num_classes=num_classes)
    if check_choice("stem", stem, ("cifar", "imagenet")) == "cifar":
        model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    elif channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return model


def _torchvision() -> Any:
    return import_torchvision("models", "use a model that needs none, such as 'xie_cnn'")
