"""Sketches keep inner products."""

import pytest
import torch

from byzgym.numerics.sketch import Sketch


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_short_vectors_stay_as_they_are():
    rows = normal(3, 100)
    assert torch.equal(Sketch(100, 100)(rows), rows)
    assert Sketch(100, 200).size == 100


@pytest.mark.parametrize(("dimension", "size"), [(7, 3), (10, 5), (1000, 33), (101, 100)])
def test_a_sketch_is_the_sum_of_signed_coordinates_in_buckets(dimension, size):
    sketch = Sketch(dimension, size, seed=4)
    signs = torch.diag(torch.stack([sketch(row)[j % sketch.size] for j, row in enumerate(torch.eye(dimension))]))
    assert sketch.size <= size
    assert torch.equal(signs.abs(), torch.eye(dimension))
    rows = normal(2, 4, dimension)
    expected = torch.zeros(2, 4, sketch.size)
    for j in range(dimension):
        expected[..., j % sketch.size] += signs[j, j] * rows[..., j]
    torch.testing.assert_close(sketch(rows), expected)


def test_inner_products_survive_on_average():
    x, y = normal(2, 500)
    products = torch.stack([Sketch(500, 50, seed)(x) @ Sketch(500, 50, seed)(y) for seed in range(400)])
    spread = x.norm() * y.norm() / 50**0.5
    assert abs(products.mean() - x @ y) < 4 * spread / 400**0.5
    assert 0.7 * spread < products.std() < 1.3 * spread


def test_the_seed_decides():
    rows = normal(2, 50)
    assert torch.equal(Sketch(50, 9, seed=1)(rows), Sketch(50, 9, seed=1)(rows))
    assert not torch.equal(Sketch(50, 9, seed=1)(rows), Sketch(50, 9, seed=2)(rows))
