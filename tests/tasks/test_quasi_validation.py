import math

import pytest
import torch

from byzgym import tasks
from byzgym.tasks import Task, quasi_validation

TRAIN, HELD, TEST = 1.0, 2.0, 1e6


def marked(held=6, shape=(1, 4, 4), num_classes=3):
    """A task whose inputs say which set they come from."""

    def samples(count, mark):
        numbers = torch.arange(count).reshape(-1, *[1] * len(shape)) / 100
        return mark + numbers + torch.zeros(shape), [0] * count

    return Task(samples(20, TRAIN), samples(30, TEST), num_classes, held_out=samples(held, HELD))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def registered_task():
    tasks.register("marked_by_a_test", marked)


SPECS = ["held_out", "train", "noise", "rotation", "other:task=marked_by_a_test"]


@pytest.mark.parametrize("spec", SPECS)
def test_no_test_sample_can_appear(spec):
    source = quasi_validation.make_from(spec)
    assert {spec.partition(":")[0] for spec in SPECS} == set(quasi_validation.names())
    for size in range(1, 7):
        x, y = source(marked(), size, seeded(size))
        assert x.shape == (size, 1, 4, 4)
        assert y.shape == (size,)
        assert x.dtype == torch.float32
        assert y.dtype == torch.int64
        assert x.max() < 10


@pytest.mark.parametrize("spec", SPECS)
def test_draws_are_the_generators_alone(spec, untouched_randomness):
    source, task = quasi_validation.make_from(spec), marked()
    before = [x.clone() for x, _ in (task.train, task.held_out)]
    first, again = source(task, 4, seeded(1)), source(task, 4, seeded(1))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], source(task, 4, seeded(2))[0])
    assert torch.equal(before[0], task.train[0])
    assert torch.equal(before[1], task.held_out[0])


@pytest.mark.parametrize(("name", "mark", "size"), [("held_out", HELD, 6), ("train", TRAIN, 20)])
def test_whole_source_without_replacement(name, mark, size):
    x, _ = quasi_validation.make(name)(marked(), size, seeded(0))
    expected = mark + torch.arange(size) / 100
    torch.testing.assert_close(x[:, 0, 0, 0].sort().values, expected)


def test_labels_go_with_their_samples():
    task = tasks.make("synthetic")
    x, y = quasi_validation.make("held_out")(task, 50, seeded(0))
    held_x, held_y = (values.tolist() for values in task.held_out)
    label_of = {tuple(row): label for row, label in zip(held_x, held_y, strict=True)}
    assert [label_of[tuple(row)] for row in x.tolist()] == y.tolist()


@pytest.mark.parametrize("spec", SPECS)
def test_too_large_a_set(spec):
    draw, size = quasi_validation.make_from(spec), 20 if spec == "train" else 6
    assert len(draw(marked(), size, seeded(0))[0]) == size
    with pytest.raises(ValueError, match=f"qv_size must be from 1 to {size}, the size of the .* set, got"):
        draw(marked(), size + 1, seeded(0))
    with pytest.raises(ValueError, match="qv_size must be an integer of at least 1, got 0"):
        draw(marked(), 0, seeded(0))


def test_noise_has_the_given_deviation():
    task = marked(held=400)
    clean, _ = quasi_validation.make("held_out")(task, 400, seeded(0))
    default, _ = quasi_validation.make("noise")(task, 400, seeded(0))
    strong, _ = quasi_validation.make("noise", std=3.0)(task, 400, seeded(0))
    none, _ = quasi_validation.make("noise", std=0)(task, 400, seeded(0))
    assert (default - clean).std().item() == pytest.approx(0.5, rel=0.05)
    assert (strong - clean).std().item() == pytest.approx(3.0, rel=0.05)
    assert abs((strong - clean).mean().item()) < 0.15
    assert torch.equal(none, clean)


def test_rotation_by_right_angles():
    images = torch.arange(32.0).reshape(1, 2, 4, 4)
    for turns in (-1, 1, 2):
        turned = quasi_validation._rotate(images, turns * math.pi / 2)
        torch.testing.assert_close(turned, torch.rot90(images, turns, (2, 3)), atol=1e-4, rtol=0)


def test_rotation_of_images_that_are_not_square():
    images = torch.zeros(1, 1, 5, 11)
    images[0, 0, 2, 7] = 1  # two to the right of the center
    turned = quasi_validation._rotate(images, math.pi / 2)
    expected = torch.zeros(1, 1, 5, 11)
    expected[0, 0, 0, 5] = 1  # two above it
    torch.testing.assert_close(turned, expected, atol=1e-5, rtol=0)


def test_rotation_repeats_the_border():
    task = tasks.make("digits")
    clean, _ = quasi_validation.make("held_out")(task, 9, seeded(0))
    turned, _ = quasi_validation.make("rotation")(task, 9, seeded(0))
    torch.testing.assert_close(turned, quasi_validation._rotate(clean, math.pi / 6))
    assert (turned - clean).abs().mean() > 0.05
    flat, _ = quasi_validation.make("rotation", degrees=45)(marked(), 6, seeded(0))
    assert flat.min() >= HELD  # no zeros come in from outside


def test_rotation_needs_images():
    message = r"'rotation' needs a task with images .* got inputs of shape \(8,\)"
    with pytest.raises(ValueError, match=message):
        quasi_validation.make("rotation")(tasks.make("synthetic"), 2, seeded(0))


def test_other_draws_from_the_other_held_out_set():
    mine = tasks.make("synthetic", seed=0)
    theirs = tasks.make("synthetic", seed=1)
    x, y = quasi_validation.make("other", task="synthetic:seed=1")(mine, 200, seeded(0))
    same, _ = quasi_validation.make("other", task=theirs)(mine, 200, seeded(0))
    assert torch.equal(x, same)
    assert sorted(x.tolist()) == sorted(theirs.held_out[0].tolist())
    assert y.bincount().tolist() == theirs.held_out[1].bincount().tolist()


@pytest.mark.parametrize("task", ["synthetic:num_features=9", {"name": "synthetic", "num_classes": 4}])
def test_other_must_fit(task):
    source = quasi_validation.make("other", task=task)
    message = r"must have inputs of shape \(8,\) and 3 classes, got 'synthetic:.*' with inputs of shape"
    with pytest.raises(ValueError, match=message):
        source(tasks.make("synthetic"), 2, seeded(0))


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("noise:std=-1", ValueError, "std must be .* at least 0, got -1"),
        ("rotation:degrees=1e999", ValueError, "degrees must be a finite number, got inf"),
        ("other:task=nope", ValueError, "unknown task 'nope'"),
        ("other", TypeError, "missing a required argument: 'task'"),
        ("test", ValueError, "unknown quasi-validation source 'test'; "),
    ],
)
def test_bad_parameters(spec, error, message):
    with pytest.raises(error, match=message):
        quasi_validation.make_from(spec)
