"""Sketches keep inner products on average over the signs, and better the longer they are."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byzgym.numerics.sketch import Sketch


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_sums_by_hand():
    sketch = Sketch(7, 3)  # blocks of 3, 2 and 2 numbers
    sketch.signs = torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0, -1.0, -1.0])
    rows = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    assert sketch(rows).tolist() == [[3, 24, -96], [-1, 0, -1]]


@settings(deadline=None)
@given(dimension=st.integers(2, 60), data=st.data())
def test_every_coordinate_is_in_one_block(dimension, data):
    size = data.draw(st.integers(1, dimension - 1))
    columns = Sketch(dimension, size)(torch.eye(dimension)).T  # [size, d]
    assert len(columns) == size
    assert (columns.abs().sum(0) == 1).all()
    lengths = columns.abs().sum(1).tolist()
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] - lengths[-1] <= 1
    blocks = columns.abs().argmax(0)
    assert torch.equal(blocks, blocks.sort().values)  # of neighbours


@settings(deadline=None, max_examples=20)
@given(dimension=st.integers(1, 7), seed=st.integers(0, 1000), data=st.data())
def test_inner_products_are_kept_on_average(dimension, seed, data):
    sketch = Sketch(dimension, data.draw(st.integers(1, dimension)))
    one, other = normal(2, dimension, seed=seed)
    products = []
    for signs in product([-1.0, 1.0], repeat=dimension):
        sketch.signs = torch.tensor(signs)
        products.append(sketch(one) @ sketch(other))
    torch.testing.assert_close(torch.stack(products).mean(), one @ other)


def test_cosines_survive_in_most_sketches():
    one, other = normal(2, 5000)
    other = other + one  # a cosine of about 0.7
    expected = torch.cosine_similarity(one, other, dim=0)
    errors = {}
    for size in (32, 512):
        sketches = [Sketch(5000, size, seed) for seed in range(200)]
        found = [torch.cosine_similarity(sketch(one), sketch(other), dim=0) for sketch in sketches]
        errors[size] = (torch.stack(found) - expected).square().mean().sqrt()
    # The deviation of a sample correlation of 32 and 512 pairs is (1 - 0.7^2) / sqrt(size).
    assert errors[32] == pytest.approx(0.5 / 32**0.5, rel=0.25)
    assert errors[512] == pytest.approx(0.5 / 512**0.5, rel=0.25)


def test_all_sketches_of_one_form_are_the_same():
    rows = normal(3, 100)
    assert torch.equal(Sketch(100, 8)(rows), Sketch(100, 8)(rows))
    assert not torch.equal(Sketch(100, 8, seed=1)(rows), Sketch(100, 8)(rows))
    assert 30 < (Sketch(100, 8).signs > 0).sum() < 70


def test_short_rows_stay_as_they_are():
    rows = normal(3, 100)
    assert torch.equal(Sketch(100, 100)(rows), rows)
    assert torch.equal(Sketch(100, 200)(rows), rows)
    assert Sketch(100, 200).size == 100


@pytest.mark.parametrize("size", [0, 2.0, None])
def test_bad_sizes_are_named(size):
    with pytest.raises(ValueError, match="size must be an integer of at least 1, got"):
        Sketch(7, size)
