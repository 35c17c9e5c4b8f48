import os
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch

from byzgym import tasks
from byzgym.tasks import tables

ROOT = os.environ.get(tables.ROOT_VARIABLE)


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


@pytest.fixture(autouse=True)
def torchvision(fake_torchvision, monkeypatch):
    monkeypatch.setattr(FakeData, "opened", [])
    return fake_torchvision(FakeData, FakeColor)


@pytest.mark.parametrize(
    ("name", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashion_mnist", 0.2860, 0.3530)]
)
def test_grey_images_are_standardised(name, mean, std, tmp_path):
    task = tasks.make(name, root=tmp_path)
    assert repr(task) == "Task(train=(10, 1, 28, 28), test=3, num_classes=10, model='mlp:32')"
    assert (task.batch_size, task.learning_rate, len(task.held_out[1])) == (32, 0.1, 10)
    assert task.train[0].unique().tolist() == pytest.approx([(1 - mean) / std])
    assert task.test[0].unique().tolist() == pytest.approx([-mean / std])


def test_cifar10_is_channels_first(tmp_path):
    image = tasks.make("cifar10", root=tmp_path).train[0][0]
    assert image.shape == (3, 32, 32)
    assert image[2, 0, 1] == 1
    assert image.eq(-1).sum() == 3 * 32 * 32 - 1


def test_one_copy_for_each_folder(tmp_path, monkeypatch):
    first = tasks.make("mnist", root=tmp_path)
    monkeypatch.setenv(tables.ROOT_VARIABLE, str(tmp_path))
    assert tasks.make("mnist") is first
    assert len(FakeData.opened) == 2
    assert tasks.make("mnist", root=tmp_path / "other") is not first
    assert tasks.make("fashion_mnist", root=tmp_path) is not first


def test_root_wins_over_the_environment_variable(tmp_path, monkeypatch):
    monkeypatch.setenv(tables.ROOT_VARIABLE, "/elsewhere")
    tasks.make("mnist", root=tmp_path, download=True)
    assert FakeData.opened == [(str(tmp_path), True, True), (str(tmp_path), False, True)]


def test_without_a_root_the_error_says_both_ways():
    with pytest.raises(ValueError, match=r"root must be .*, got None; pass root=.* BYZGYM_DATA_ROOT"):
        tasks.make("mnist")


@pytest.mark.parametrize(
    ("raised", "download", "error", "message"),
    [
        (RuntimeError("Dataset not found. Try"), False, FileNotFoundError, "not in root .*download=True"),
        (RuntimeError("Dataset not found or corrupted."), False, FileNotFoundError, "not in root"),
        (EOFError("Ran out of input"), False, ValueError, "cannot be read: Ran out .*download=True"),
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


def test_a_broken_torchvision_breaks_image_tasks(tmp_path, monkeypatch):
    for module in ("torchvision", "torchvision.datasets"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [BrokenFinder, *sys.meta_path])
    for _ in range(2):
        with pytest.raises(RuntimeError, match="torchvision could not be imported: operator"):
            tasks.make("mnist", root=tmp_path)
    assert tasks.make("digits").num_classes == 10


@pytest.mark.skipif(not ROOT, reason=f"{tables.ROOT_VARIABLE} is not set")
def test_real_mnist(monkeypatch):
    monkeypatch.undo()
    try:
        task = tasks.make("mnist")
    except (FileNotFoundError, RuntimeError) as error:
        pytest.skip(str(error))
    assert [len(x) for x, _ in (task.train, task.test, task.held_out)] == [54_000, 10_000, 6_000]
    assert task.train[0].mean().abs() < 0.02
    assert (task.train[0].std() - 1).abs() < 0.02
    assert task.test[1].bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
