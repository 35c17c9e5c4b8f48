import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from byzgym import tasks


@pytest.mark.parametrize(
    ("name", "sizes", "shape", "classes"),
    [("digits", (1293, 360, 144), (1, 8, 8), 10), ("breast_cancer", (409, 114, 46), (30,), 2)],
)
def test_sets_are_disjoint_and_complete(name, sizes, shape, classes):
    task = tasks.make(name)
    sets = (task.train, task.test, task.held_out)
    assert tuple(len(x) for x, _ in sets) == sizes
    assert task.input_shape == shape
    assert task.num_classes == classes
    rows = torch.cat([x for x, _ in sets]).flatten(1)
    assert len(rows.unique(dim=0)) == sum(sizes)  # neither data set holds a sample twice


@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
def test_the_test_set_is_stratified(name):
    task = tasks.make(name)
    train, test, held_out = (y.bincount().double() for _, y in (task.train, task.test, task.held_out))
    assert (test - (train + test + held_out) / 5).abs().max() <= 1


def test_training_samples_standardise():
    task = tasks.make("breast_cancer")
    x = task.train[0].double()
    assert x.mean(0).abs().max() < 1e-5
    assert (x.std(0) - 1).abs().max() < 1e-4
    assert task.test[0].mean(0).abs().max() > 1e-2


def test_synthetic_sizes_labels_and_seed():
    task = tasks.make("synthetic", num_samples=7, num_features=2, num_classes=3, seed=4)
    for x, y in (task.train, task.test, task.held_out):
        assert x.shape == (7, 2)
        assert y.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert len(torch.cat([task.train[0], task.test[0], task.held_out[0]]).unique(dim=0)) == 21
    same = tasks.make("synthetic", num_samples=7, num_features=2, num_classes=3, seed=4)
    other = tasks.make("synthetic", num_samples=7, num_features=2, num_classes=3, seed=5)
    assert torch.equal(task.train[0], same.train[0])
    assert not torch.equal(task.train[0], other.train[0])


@pytest.mark.parametrize("wrong", ["num_samples=0", "num_features=0", "num_classes=1", "seed=-1"])
def test_synthetic_refuses(wrong):
    with pytest.raises(ValueError, match=f"{wrong.partition('=')[0]} must be an integer of at least .*, got"):
        tasks.make_from(f"synthetic:{wrong}")


def test_loaded_once_without_global_randomness(untouched_randomness):
    for name in ("digits", "breast_cancer"):
        getattr(tasks.embedded, name).cache_clear()
        assert tasks.make(name) is tasks.make(name)


@pytest.mark.parametrize(("name", "least"), [("digits", 0.9), ("breast_cancer", 0.94), ("synthetic", 0.95)])
def test_the_defaults_learn(name, least):
    """In 300 rounds of averaging three honest workers' gradients, which is one of three batches."""
    task = tasks.make(name)
    generator = torch.Generator().manual_seed(0)
    model = tasks.models.build(task.model, task.input_shape, task.num_classes, generator)
    x, y = task.train
    optimizer = torch.optim.SGD(model.parameters(), lr=task.learning_rate)
    for _ in range(300):
        rows = torch.randint(len(x), (3 * task.batch_size,), generator=generator)
        optimizer.zero_grad()
        functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    assert (model(task.test[0]).argmax(1) == task.test[1]).double().mean() > least


def test_the_first_import_is_lean():
    code = "import random, sys; from byzgym import tasks; s = random.getstate(); tasks.make('digits'); "
    code += "assert 'torchvision' not in sys.modules; assert random.getstate() == s"
    subprocess.run([sys.executable, "-c", code], check=True)
