"""Image tasks on small files: the constants of their standardisation, and whose files they read."""

from pathlib import Path

import numpy as np
import pytest

from byzgym import tasks


class FakeGrey:
    """All pixels have the value in the file "pixel" of the folder."""

    shape = (28, 28)

    def __init__(self, root, train, download=False):
        pixel = int((Path(root) / "pixel").read_text())
        self.data = np.full((20, *self.shape), pixel, dtype=np.uint8)
        self.targets = [number % 10 for number in range(20)]


class FakeColor(FakeGrey):
    shape = (32, 32, 3)


@pytest.fixture(autouse=True)
def torchvision(fake_torchvision):
    return fake_torchvision(FakeGrey, FakeColor)


def folder_of(path, pixel):
    path.mkdir()
    (path / "pixel").write_text(str(pixel))
    return path


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [("mnist", 0.1307, 0.3081), ("fashion_mnist", 0.2860, 0.3530), ("cifar10", 0.5, 0.5)],
)
@pytest.mark.parametrize("pixel", [0, 51, 255])
def test_pixels_are_standardised(name, mean, std, pixel, tmp_path):
    task = tasks.make(name, root=folder_of(tmp_path / "data", pixel))
    for x, _ in (task.train, task.test, task.held_out):
        assert x.unique().tolist() == pytest.approx([(pixel / 255 - mean) / std], rel=1e-5)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_each_folder_has_its_own_data(name, tmp_path):
    dark, bright = (folder_of(tmp_path / f"data{pixel}", pixel) for pixel in (0, 255))
    first, second = (tasks.make(name, root=root).test[0] for root in (dark, bright))
    assert (second > first).all()
    assert tasks.make(name, root=dark).test[0] is first
