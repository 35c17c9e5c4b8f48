import os
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch

from byzgym import tasks
from byzgym.tasks import images

ROOT = os.environ.get(images.ROOT_VARIABLE)


class FakeData:
    """What torchvision's data sets offer: `data` and `targets`; 20 white training and 3 black test images."""

    opened: ClassVar[list] = []

    def __init__(self, root, train, download=False):
        FakeData.opened.append((root, train, download))
        rows = 20 if train else 3
        self.data = torch.full((rows, 28, 28), 255 if train else 0, dtype=torch.uint8)
        self.targets = torch.arange(rows) % 10


class FakeColor(FakeData):
    def __init__(self, root, train, download=False):
        super().__init__(root, train, download)
        self.data = np.zeros((len(self.targets), 32, 32, 3), dtype=np.uint8)
        self.data[:, 0, 1, 2] = 255  # row 0, column 1, blue
        self.targets = self.targets.tolist()


@pytest.fixture
def torchvision(fake_torchvision, monkeypatch):
    monkeypatch.setattr(FakeData, "opened", [])
    return fake_torchvision(FakeData, FakeColor)


def test_mnist_is_standardised(torchvision, tmp_path):
    task = tasks.make("mnist", root=tmp_path)
    assert task.input_shape == (1, 28, 28)
    assert (task.model, task.batch_size, task.learning_rate) == ("mlp:32", 32, 0.1)
    assert [len(x) for x, _ in (task.train, task.test, task.held_out)] == [10, 3, 10]
    assert task.train[0].unique().tolist() == pytest.approx([(1 - 0.1307) / 0.3081])
    assert task.test[0].unique().tolist() == pytest.approx([-0.1307 / 0.3081])


def test_cifar10_becomes_channels_first_from_minus_one_to_one(torchvision, tmp_path):
    image = tasks.make("cifar10", root=tmp_path).train[0][0]
    assert image.shape == (3, 32, 32)
    assert image[2, 0, 1] == 1
    assert image.eq(-1).sum() == 3 * 32 * 32 - 1


def test_one_copy_is_shared(torchvision, tmp_path, monkeypatch):
    first = tasks.make("mnist", root=tmp_path)
    monkeypatch.setenv(images.ROOT_VARIABLE, str(tmp_path))
    assert tasks.make("mnist").train[0] is first.train[0]
    assert len(FakeData.opened) == 2
    assert tasks.make("fashion_mnist", root=tmp_path).train[0] is not first.train[0]


def test_root_wins_over_the_environment_variable(torchvision, tmp_path, monkeypatch):
    monkeypatch.setenv(images.ROOT_VARIABLE, "/elsewhere")
    tasks.make("mnist", root=tmp_path, download=True)
    assert FakeData.opened == [(str(tmp_path), True, True), (str(tmp_path), False, True)]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_without_a_root_the_error_says_both_ways(name, torchvision):
    with pytest.raises(ValueError, match=r"root must be .*, got None; pass root=.* BYZGYM_DATA_ROOT"):
        tasks.make(name)


def test_download_must_be_a_bool(torchvision, tmp_path):
    with pytest.raises(ValueError, match="download must be True or False, got 'yes'"):
        tasks.make("mnist", root=tmp_path, download="yes")


@pytest.mark.parametrize(
    ("raised", "download", "error", "message"),
    [
        (
            RuntimeError("Dataset not found. You can use"),
            False,
            FileNotFoundError,
            "not in root .*download=True",
        ),
        (
            RuntimeError("Dataset not found or corrupted."),
            False,
            FileNotFoundError,
            "not in root .*download=True",
        ),
        (
            EOFError("Ran out of input"),
            False,
            ValueError,
            "cannot be read: Ran out of input; .*download=True",
        ),
        (OSError("no network"), True, RuntimeError, "could not be downloaded into root .*: no network"),
    ],
)
def test_unreadable_data(torchvision, tmp_path, raised, download, error, message):
    def fail(*arguments, **parameters):
        raise raised

    torchvision.MNIST = fail
    with pytest.raises(error, match=message) as caught:
        tasks.make("mnist", root=tmp_path, download=download)
    assert str(tmp_path) in str(caught.value)


class BrokenFinder:
    """Fails as a torchvision does that was built for another torch."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_broken_torchvision_breaks_only_image_tasks(name, torchvision, tmp_path, monkeypatch):
    for module in ("torchvision", "torchvision.datasets"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [BrokenFinder, *sys.meta_path])
    message = r"torchvision could not be imported: operator torchvision::nms does not exist; install"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message) as caught:
            tasks.make(name, root=tmp_path)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
    assert tasks.make("digits").num_classes == 10


def test_a_missing_torchvision_is_reported_alike(torchvision, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(RuntimeError, match="torchvision could not be imported"):
        tasks.make("mnist", root=tmp_path)


def _real(name):
    try:
        return tasks.make(name)
    except (FileNotFoundError, RuntimeError) as error:
        pytest.skip(str(error))


@pytest.mark.skipif(not ROOT, reason=f"{images.ROOT_VARIABLE} is not set")
def test_real_mnist():
    task = _real("mnist")
    assert [len(x) for x, _ in (task.train, task.test, task.held_out)] == [54_000, 10_000, 6_000]
    some = task.train[0][:10_000]
    assert some.mean().abs() < 0.02
    assert (some.std() - 1).abs() < 0.02
    assert task.test[1].bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.skipif(not ROOT, reason=f"{images.ROOT_VARIABLE} is not set")
def test_real_cifar10_labels():
    torchvision_datasets = pytest.importorskip("torchvision.datasets")
    try:
        data = torchvision_datasets.CIFAR10(ROOT, train=False)
    except RuntimeError as error:
        pytest.skip(str(error))
    x, y = images._read("CIFAR10", images._root(None), False, False, 0.5, 0.5)
    assert x.shape == (10_000, 3, 32, 32)
    assert y.tolist() == data.targets
    expected = torch.from_numpy(data.data[7, 3, 4].astype(np.float32)) / 127.5 - 1
    torch.testing.assert_close(x[7, :, 3, 4], expected)
