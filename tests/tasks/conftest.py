import sys
import types

import numpy as np
import pytest
import torch

from byzgym import tasks
from byzgym.tasks import images


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models gain nothing from threads, and lose much to them on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def own_names(monkeypatch):
    """Forget after the test what it has registered."""
    for module in (tasks.registry, tasks.models, tasks.partitions, tasks.quasi_validation):
        monkeypatch.setattr(module.registry, "_factories", dict(module.registry._factories))


@pytest.fixture
def untouched_randomness():
    """Fail the test if it drew from the global generators of torch or numpy."""
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    yield
    assert torch.equal(torch_state, torch.get_rng_state())
    now = np.random.get_state()  # noqa: NPY002
    assert (numpy_state[1] == now[1]).all()
    assert numpy_state[2:] == now[2:]


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
        monkeypatch.delenv(images.ROOT_VARIABLE, raising=False)
        return fake.datasets

    return install
