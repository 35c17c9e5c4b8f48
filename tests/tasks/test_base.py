import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch

from byzgym import tasks
from byzgym.tasks import Task
from byzgym.tasks.base import split_held_out, split_stratified

X = torch.arange(60.0).reshape(20, 3)
Y = torch.arange(20) % 4


def task(**changes):
    arguments = {"train": (X, Y), "test": (X, Y), "held_out": (X, Y), "num_classes": 4, **changes}
    return Task(**arguments)


@pytest.mark.parametrize(
    ("inputs", "labels"),
    [("f8", "i4"), ("f2", "u1"), ("u2", "u8"), (">f4", "f4"), (bool, bool)],
)
def test_number_types_are_converted(inputs, labels):
    x, y = np.array([[0, 1], [1, 0], [1, 1]]).astype(inputs), np.array([0, 1, 1]).astype(labels)
    made = task(train=(x, y), test=(x, y), held_out=(x, y), num_classes=2)
    assert made.train[0].dtype == torch.float32
    assert made.train[1].dtype == torch.int64
    assert made.train[0].tolist() == [[0, 1], [1, 0], [1, 1]]
    assert made.train[1].tolist() == [0, 1, 1]


def test_awkward_memory_gives_no_warning(recwarn):
    reversed_rows = X.numpy()[::-1]
    read_only = X.numpy().copy()
    read_only.flags.writeable = False
    made = task(train=(reversed_rows, Y.tolist()), test=(read_only, Y))
    assert made.train[0][0].tolist() == X[-1].tolist()
    assert torch.equal(made.test[0], X)
    assert not recwarn.list


@pytest.mark.parametrize(("count", "held"), [(2, 1), (26, 10), (260, 26)])
def test_a_tenth_is_held_out_of_train(count, held):
    x = torch.arange(float(count))[:, None]
    made = Task((x, torch.arange(count) % 2), (x, torch.zeros(count)), 2)
    kept, out = made.train[0].flatten().tolist(), made.held_out[0].flatten().tolist()
    assert len(out) == held
    assert sorted(kept + out) == list(range(count))
    assert made.held_out[1].tolist() == [int(value) % 2 for value in out]
    assert made.train[1].tolist() == [int(value) % 2 for value in kept]


def test_splits_are_always_the_same(untouched_randomness):
    first, stratified = split_held_out(X, Y), split_stratified(Y.numpy(), 0.2, seed=0)
    assert torch.equal(first[1][0], split_held_out(X, Y)[1][0])
    assert all(map(np.array_equal, stratified, split_stratified(Y.numpy(), 0.2, seed=0)))
    assert sorted(Y[stratified[1]].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(("count", "num_classes"), [(4, 2), (12, 3), (20, 10)])
def test_a_stratified_split_takes_every_share_that_it_says_it_takes(count, num_classes):
    labels = np.arange(count) % num_classes
    for numerator in range(1, 100):
        fraction = numerator / 100
        if (num_classes - 1) / count < fraction <= 1 - num_classes / count:
            first, second = split_stratified(labels, fraction)
            assert min(len(first), len(second)) >= num_classes
        else:
            with pytest.raises(ValueError, match=f"with {count} samples of {num_classes} classes, .* got 0"):
                split_stratified(labels, fraction)


def test_a_class_of_one_cannot_be_split():
    with pytest.raises(ValueError, match=r"each class must have at least 2 samples, got 1 of 7$"):
        split_stratified(np.array([3, 3, 3, 7]), 0.5)


NAN = X.clone()
NAN[3, 1] = float("nan")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num_classes": 1}, ValueError, "num_classes must be an integer of at least 2, got 1"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be .* greater than 0, got 0.0"),
        ({"model": ""}, ValueError, "model must be a non-empty string .* got ''"),
        ({"train": X}, TypeError, "train must be a pair"),
        ({"train": (X, Y[:-1])}, ValueError, "train must have as many inputs as labels, got 20 and 19"),
        ({"test": (X[:0], Y[:0])}, ValueError, "test must not be empty"),
        ({"test": (Y, Y)}, ValueError, r"inputs of test must have shape \[N, ...\], got \(20,\)"),
        ({"test": (X, Y[:, None])}, ValueError, r"labels of test must have shape \[N\], got \(20, 1\)"),
        ({"held_out": (NAN, Y)}, ValueError, "inputs of held_out must be finite"),
        ({"num_classes": 3}, ValueError, r"labels of train must be integers from 0 to 2 .* got 3"),
        ({"test": (X, Y - 1)}, ValueError, r"labels of test must be integers from 0 to 3 .* got -1"),
        ({"train": ([[1.0], [2.0, 3.0]], Y)}, TypeError, "inputs of train must be integers or floats"),
        ({"train": (X + 1j, Y)}, TypeError, "inputs of train must be integers or floats"),
        ({"train": (X.to_sparse(), Y)}, TypeError, "inputs of train must be .* dense .* got .*sparse"),
        ({"test": (np.ma.masked_less(X.numpy(), 9), Y)}, TypeError, "inputs of test must not be a masked"),
        ({"test": (X[:, :2], Y)}, ValueError, r"test .* shape of train, \(3,\), got \(2,\)"),
        ({"train": (X[:1], Y[:1]), "held_out": None}, ValueError, "at least 2 samples .* got 1"),
    ],
)
def test_bad_arguments(changes, error, message):
    with pytest.raises(error, match=message):
        task(**changes)


def test_frozen_and_replaceable():
    made = Task((X, Y), (X, Y), 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.batch_size = 1
    changed = dataclasses.replace(made, batch_size=8)
    assert changed.batch_size == 8
    assert torch.equal(changed.train[0], made.train[0])
    assert torch.equal(changed.held_out[0], made.held_out[0])


def test_copies_share_the_data():
    made = task()
    assert copy.copy(made) is copy.deepcopy([made])[0] is made
    again = pickle.loads(pickle.dumps(made))
    assert torch.equal(again.train[0], made.train[0])
    assert again.to("cpu") is again


def test_data_outlive_inference_mode():
    with torch.inference_mode():
        made = task(train=(X * 2, Y))
        moved = task().to("meta")
    assert not any(t.is_inference() for t in (*made.train, *made.held_out, *moved.train))


def test_to_moves_everything_once():
    made = task()
    assert made.to("cpu") is made
    moved = made.to("meta")
    assert moved is not made
    assert made.to(torch.device("meta")) is moved
    assert {t.device.type for pair in (moved.train, moved.test, moved.held_out) for t in pair} == {"meta"}
    assert made.train[0].device.type == "cpu"
    assert (moved.num_classes, moved.input_shape) == (4, (3,))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_without_an_index_is_one_device():
    moved = task().to("cuda")
    assert moved.to(f"cuda:{torch.cuda.current_device()}") is moved


def test_users_register_tasks():
    tasks.register("registered_by_a_test", lambda **parameters: task(**parameters))
    assert "registered_by_a_test" in tasks.names()
    assert tasks.make("registered_by_a_test", batch_size=3).batch_size == 3
    assert tasks.make_from("registered_by_a_test:batch_size=4").batch_size == 4
    made = task()
    assert tasks.make_from(made) is made
    tasks.register("registered_by_a_test", lambda: None)
    with pytest.raises(TypeError, match=r"the factory of .* must return a Task, got None"):
        tasks.make("registered_by_a_test")


def test_columns_follow_the_training_samples():
    column = [10 * i - 30 for i in range(20)]
    kept = task(columns={"region": column, "hour": np.arange(20, dtype="u2")})
    assert kept.column("region").tolist() == column
    assert kept.column("hour").dtype == torch.int64
    split = task(held_out=None, columns={"region": column})
    assert split.column("region").tolist() == [10 * int(x[0]) // 3 - 30 for x in split.train[0]]
    assert dataclasses.replace(kept, batch_size=8).column("region").tolist() == column
    assert kept.to("meta").column("region").device.type == "meta"
    with pytest.raises(
        ValueError, match=r"unknown column of the task 'regoin'; did you mean 'region'\? known: region, h"
    ):
        kept.column("regoin")
    with pytest.raises(ValueError, match="unknown column of the task 'region'; known: none"):
        task().column("region")


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ([1], TypeError, "columns must map names to integers, got list"),
        ({"region": ["a"] * 20}, TypeError, r"column 'region' must be integers or floats, got \['a'"),
        ({"region": [1] * 19}, ValueError, r"one for each of 20 training samples, got torch.int64 .*\(19,\)"),
        ({"region": [0.5] * 20}, ValueError, "columns must be named integers, .* torch.float64 .* 'region'"),
        ({3: [1] * 20}, ValueError, "columns must be named integers, .* named 3"),
    ],
)
def test_bad_columns(columns, error, message):
    with pytest.raises(error, match=message):
        task(columns=columns)
