"""Image data sets read through torchvision, which is imported only when one of them is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzgym.ambient import shielded
from byzgym.tasks.base import Task, import_torchvision
from byzgym.tasks.registry import registry
from byzgym.tasks.tables import folder_of
from byzgym.validation import check_bool

# one copy of each data set, however many environments use it
_loaded: dict[tuple[str, Path], Task] = {}


@registry.built_in("mnist")
def mnist(root: str | os.PathLike[str] | None = None, download: bool = False) -> Task:
    """MNIST: 60,000 and 10,000 images of shape (1, 28, 28) of digits, standardised with 0.1307 and 0.3081.

    A tenth of the training images is held out for the quasi-validation set. Batch 32 and learning rate 0.1
    are those of Xie, Koyejo and Gupta 2018 (https://arxiv.org/abs/1802.10116).

    Args:
        root: Folder that holds torchvision's folder "MNIST". Defaults to the environment variable
            BYZGYM_DATA_ROOT.
        download: Whether to fetch what is missing into ``root``.

    Raises:
        ValueError: If no root is given, or the files in it cannot be read.
        FileNotFoundError: If the data is not in ``root``.
        RuntimeError: If torchvision cannot be imported, or the download fails.

    Source: Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits (CC BY-SA 3.0).
    """
    return _load("MNIST", root, download, 0.1307, 0.3081, model="mlp:32")


@registry.built_in("fashion_mnist")
def fashion_mnist(root: str | os.PathLike[str] | None = None, download: bool = False) -> Task:
    """Fashion-MNIST: as `mnist`, with ten kinds of clothing, standardised with 0.2860 and 0.3530.

    Arguments and errors are those of `mnist`; the folder in ``root`` is "FashionMNIST".

    Source: H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, arXiv:1708.07747 (MIT licence).
    """
    return _load("FashionMNIST", root, download, 0.2860, 0.3530, model="mlp:32")


@registry.built_in("cifar10")
def cifar10(root: str | os.PathLike[str] | None = None, download: bool = False) -> Task:
    """CIFAR-10: 50,000 and 10,000 color images of shape (3, 32, 32), ten classes, scaled to -1..1.

    A tenth of the training images is held out for the quasi-validation set.

    Arguments and errors are those of `mnist`; the folder in ``root`` is "cifar-10-batches-py".

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009 (no licence stated;
    cite the report).
    """
    return _load("CIFAR10", root, download, 0.5, 0.5, model="lenet")


@shielded
def _load(
    name: str, root: str | os.PathLike[str] | None, download: bool, mean: float, std: float, **defaults: Any
) -> Task:
    check_bool("download", download)
    folder = folder_of(root)
    if (name, folder) not in _loaded:
        train, test = (_read(name, folder, part, download, mean, std) for part in (True, False))
        _loaded[name, folder] = Task(train, test, num_classes=10, **defaults)
    return _loaded[name, folder]


def _read(
    name: str, folder: Path, train: bool, download: bool, mean: float, std: float
) -> tuple[Tensor, Tensor]:
    dataset = _open(name, folder, train, download)
    data = torch.as_tensor(np.asarray(dataset.data))
    x = data[:, None] if data.ndim == 3 else data.permute(0, 3, 1, 2)
    x = x.to(torch.float32, memory_format=torch.contiguous_format)
    return x.div_(255).sub_(mean).div_(std), torch.as_tensor(dataset.targets)


def _open(name: str, folder: Path, train: bool, download: bool) -> Any:
    datasets = import_torchvision("datasets", "use a task that needs none, such as 'digits'")
    try:
        return getattr(datasets, name)(str(folder), train=train, download=download)
    except Exception as error:  # whatever reading damaged files raises
        if download:
            raise RuntimeError(
                f"{name} could not be downloaded into root {str(folder)!r}: {error}"
            ) from error
        if "not found" in str(error):  # torchvision's RuntimeError where files are absent
            raise FileNotFoundError(
                f"{name} is not in root {str(folder)!r}, or is damaged; download=True fetches it"
            ) from None
        raise ValueError(
            f"{name} in root {str(folder)!r} cannot be read: {error}; remove it and download=True fetches it "
            "again"
        ) from error
