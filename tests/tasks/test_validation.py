import numpy as np
import pytest
import torch

from byzgym import tasks
from byzgym.simulation import Simulation
from byzgym.tasks import Task


def numbered(first, count):
    """Samples that can be told apart: sample i has the input i."""
    return np.arange(first, first + count, dtype=float)[:, None], np.arange(first, first + count) % 2


@pytest.fixture
def whole():
    given = {"train": numbered(0, 50), "held_out": numbered(100, 20), "test": numbered(200, 30)}
    return Task(**given, num_classes=2, model="softmax", columns={"state": np.arange(50)})


def inputs(samples):
    return {int(x) for x in samples[0]}


def test_validation_samples_are_training_samples_that_nobody_else_has(whole):
    task = tasks.make("validation", task=whole)
    assert inputs(task.train) | inputs(task.test) == set(range(50))
    assert (len(task.train[1]), len(task.test[1])) == (40, 10)
    assert inputs(task.held_out) == set(range(100, 120))
    assert not inputs(task.test) & (inputs(task.train) | inputs(task.held_out))
    for x, y in (task.train, task.test):
        assert (x[:, 0] % 2 == y).all()


def test_columns_stay_with_their_samples(whole):
    task = tasks.make("validation", task=whole)
    assert task.column("state").tolist() == task.train[0][:, 0].int().tolist()


def test_they_are_always_the_same_ones(whole):
    one, other = (tasks.make("validation", task=whole) for _ in range(2))
    assert torch.equal(one.test[0], other.test[0])


def test_neither_the_qv_set_nor_the_reward_has_them(whole):
    tasks.register("test_whole", lambda: whole)
    for source in ("held_out", "train"):
        simulation = Simulation.make(
            task="validation:test_whole",
            qv_source=source,
            qv_size=5,
            reward="held_out",
            seed=0,
            num_workers=4,
        )
        used = set(simulation.quasi_validation.x.flatten().int().tolist())
        used |= {100 + i for i in simulation.reward_set.samples.flatten().tolist()}
        assert not used & inputs(simulation.setup.task.test)
        assert not inputs(simulation.setup.task.test) & set(range(200, 230))


def test_the_other_task_may_have_parameters():
    task = tasks.make_from("validation:synthetic:num_samples=100,seed=3")
    other = tasks.make_from("synthetic:num_samples=100,seed=3")
    assert len(task.train[1]) + len(task.test[1]) == len(other.train[1])
    assert (task.model, task.learning_rate, task.batch_size) == (
        other.model,
        other.learning_rate,
        other.batch_size,
    )


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="unknown task 'digit'"):
        tasks.make_from("validation:digit")
    one = Task(train=numbered(0, 1), held_out=numbered(1, 1), test=numbered(2, 1), num_classes=2)
    with pytest.raises(ValueError, match="task must have at least 2 training samples to split, got 1"):
        tasks.make("validation", task=one)
