import sys
import types

import numpy as np
import pytest
import torch

from byzgym.tasks import images, tables


@pytest.fixture
def untouched_randomness():
    """Fail the test if it drew from the global generators of torch or NumPy."""
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1:3]  # noqa: NPY002
    yield
    assert torch.equal(torch_state, torch.get_rng_state())
    assert all(map(np.array_equal, numpy_state, np.random.get_state()[1:3]))  # noqa: NPY002


@pytest.fixture
def fake_torchvision(monkeypatch):
    """Puts a fake torchvision with these data sets in place, and forgets what has been loaded."""

    def install(grey, color):
        fake = types.ModuleType("torchvision")
        fake.datasets = types.ModuleType("torchvision.datasets")
        fake.datasets.MNIST = fake.datasets.FashionMNIST = grey
        fake.datasets.CIFAR10 = color
        monkeypatch.setitem(sys.modules, "torchvision", fake)
        monkeypatch.setitem(sys.modules, "torchvision.datasets", fake.datasets)
        monkeypatch.setattr(images, "_loaded", {})
        monkeypatch.delenv(tables.ROOT_VARIABLE, raising=False)
        return fake.datasets

    return install
