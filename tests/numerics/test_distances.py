"""Distances against differences taken directly, in double precision."""

import aggregation_reference as reference
import numpy as np
import pytest
import torch

from byzgym.numerics import distances
from byzgym.numerics.distances import (
    BLOCK,
    Geometry,
    row_norms,
    squared_diameter,
    squared_distances,
    unit_rows,
)

RTOL = {torch.float32: 1e-4, torch.float64: 1e-8}
both_types = pytest.mark.parametrize("dtype", list(RTOL), ids=str)


@pytest.mark.parametrize("family", reference.FAMILIES)
@both_types
@pytest.mark.parametrize(("n", "d"), [(2, 1), (3, 4), (30, 100), (7, BLOCK + 5)])
def test_against_direct_differences(family, dtype, n, d):
    rows = reference.draw(family, n, d, seed=d, dtype=dtype)
    expected = reference.distances(rows) ** 2
    squared = squared_distances(rows)
    assert squared.dtype == torch.float64
    np.testing.assert_allclose(squared.numpy(), expected, rtol=RTOL[dtype], atol=0)
    assert torch.equal(squared, squared.mT)


@pytest.mark.parametrize("family", reference.FAMILIES)
@pytest.mark.parametrize("n", [10, 60])
def test_products_of_many_blocks(monkeypatch, family, n):
    runs = torch.stack([reference.draw(family, n, 70, seed=seed) for seed in range(2)])
    monkeypatch.setattr(distances, "BLOCK", 16)
    monkeypatch.setattr(distances, "BATCH", n * 32)
    for rows, alone in zip(runs, squared_distances(runs), strict=True):
        expected = reference.distances(rows) ** 2
        assert torch.equal(alone, alone.mT)
        np.testing.assert_allclose(alone.numpy(), expected, rtol=1e-4, atol=0)
        np.testing.assert_allclose(squared_distances(rows).numpy(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("equal_to", [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 2, 2]])
def test_equal_rows_among_nearly_equal_ones(equal_to):
    """Rows 0 to 3 are so close that the first pass finds all their distances doubtful."""
    base = reference.draw("gaussian", 5, distances.LONG_ROW, seed=3)
    for row in range(4):
        base[row] = base[0] + 1e-4 * equal_to[row] * base[4]
    squared = squared_distances(base)
    expected = reference.distances(base) ** 2
    np.testing.assert_allclose(squared.numpy(), expected, rtol=1e-4, atol=0)
    for i in range(4):
        for j in range(4):
            assert (squared[i, j] == 0) == (equal_to[i] == equal_to[j])


@both_types
def test_nested_clusters(dtype):
    # Each row is a thousand times nearer to the last one than the row before it.
    steps = torch.tensor([10.0 ** (30 - 3 * k) for k in range(20)], dtype=torch.float64)
    rows = torch.zeros(21, 30, dtype=torch.float64)
    for k in range(20):
        rows[k, k] = steps[k]
    squared = squared_distances(rows.to(dtype))
    np.testing.assert_allclose(squared.numpy(), reference.distances(rows) ** 2, rtol=RTOL[dtype], atol=0)


@both_types
def test_clusters_with_offsets_of_their_own(dtype):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(6, 50, generator=generator, dtype=torch.float64).to(dtype)
    offset = 2.0 ** torch.tensor([10.0, 10.0, 0.0, 0.0, -3.0, -3.0], dtype=dtype)[:, None]
    rows = 2.0**20 + offset + torch.where(torch.arange(6)[:, None] < 4, noise, 0.25 * noise)
    np.testing.assert_allclose(
        squared_distances(rows).numpy(), reference.distances(rows) ** 2, rtol=RTOL[dtype], atol=0
    )


@both_types
def test_equal_rows_have_equal_distances(dtype):
    rows = reference.draw("gaussian", 9, 5000, seed=1, dtype=dtype)
    rows[4], rows[7] = rows[2], rows[2]
    squared = squared_distances(rows)
    assert squared[2, 4] == squared[2, 7] == squared[4, 7] == 0
    assert torch.equal(squared[2], squared[4])
    assert torch.equal(squared[2], squared[7])
    assert (squared == 0).sum() == 9 + 6


def test_easy_and_hard_runs_side_by_side():
    runs = torch.stack([reference.draw(family, 8, 40, seed=5) for family in reference.FAMILIES])
    together = squared_distances(runs.reshape(2, -1, 8, 40)).reshape(-1, 8, 8)
    for run, squared in zip(runs, together, strict=True):
        np.testing.assert_allclose(squared, squared_distances(run), rtol=1e-4, atol=0)


@pytest.mark.parametrize("family", ["gaussian", "equal_rows", "offset", "far_cluster", "row_magnitudes"])
@both_types
def test_gram_about_a_row(family, dtype):
    rows = reference.draw(family, 9, 60, seed=2, dtype=dtype)
    exact = rows.double()
    for center in (0, 5):
        gram = Geometry(rows).gram_about(torch.tensor([center]))[0]
        centred = exact - exact[center]
        norms = centred.norm(dim=-1)
        error = (gram - centred @ centred.mT).abs()
        # Relative to the distances from the center.
        assert (error <= 10 * RTOL[dtype] * norms[:, None] * norms).all()


def test_coarse_matmul_setting_does_not_matter():
    rows = reference.draw("gaussian", 10, 3000, seed=0)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        squared = squared_distances(rows)
    finally:
        torch.set_float32_matmul_precision(before)
    np.testing.assert_allclose(squared.numpy(), reference.distances(rows) ** 2, rtol=1e-6)


@pytest.mark.parametrize("family", reference.FAMILIES)
@both_types
def test_norms(family, dtype):
    rows = reference.draw(family, 9, 30, seed=2, dtype=dtype)
    expected = np.sqrt((rows.double().numpy() ** 2).sum(1))
    np.testing.assert_allclose(row_norms(rows).numpy(), expected, rtol=1e-6)


@both_types
@pytest.mark.parametrize("d", [5, distances.NORM_BLOCK + 5])
def test_gradient_of_norms(dtype, d):
    sizes = torch.tensor([1.0, 0.0, 1e-30, 1e30], dtype=dtype)[:, None]
    rows = (sizes * reference.draw("gaussian", 4, d, seed=0, dtype=dtype)).requires_grad_()
    row_norms(rows).sum().backward()
    units = torch.nn.functional.normalize(rows.detach().double(), eps=1e-40)
    torch.testing.assert_close(rows.grad.double(), units, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_squared_diameter(size):
    rows = torch.stack([reference.draw("gaussian", 6, 300, seed=seed) for seed in range(3)]) * size
    rows[1, 2:] = 0
    rows[2] = 0
    rows = rows - rows.mean(1, keepdim=True)
    expected = [reference.distances(run).max() ** 2 for run in rows]
    np.testing.assert_allclose(squared_diameter(rows).numpy(), expected, rtol=1e-5, atol=0)
    assert squared_diameter(rows[0]).shape == ()


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1.0, 1e30])
def test_unit_rows(size):
    rows = reference.draw("gaussian", 4, 50, seed=2) * size
    rows[1] = 0
    units = unit_rows(rows)
    assert units.dtype == rows.dtype
    expected = rows.double().numpy() / np.linalg.norm(rows.double().numpy(), axis=1, keepdims=True).clip(
        1e-60
    )
    np.testing.assert_allclose(units.numpy(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", reference.FAMILIES)
@both_types
@pytest.mark.parametrize("cached", [1, 1 << 20])
def test_distances_to_a_point(family, dtype, cached, monkeypatch):
    monkeypatch.setattr(distances, "CACHED", cached)  # at 1, blocks of 1024 columns
    rows = torch.stack([reference.draw(family, 5, 2500, seed, dtype) for seed in range(2)])
    points = torch.stack([reference.draw(family, 1, 2500, seed, dtype)[0] for seed in (0, 3)])
    expected = (rows.double() - points[:, None].double()).square().sum(-1).sqrt()
    torch.testing.assert_close(distances.distances_to(rows, points), expected, rtol=1e-5, atol=0)
