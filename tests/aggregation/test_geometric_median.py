import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import LINE, both_types, chosen

from byzgym.aggregation import GeometricMedian

# The middle of a cross, and the obtuse corner of a triangle with an angle above 120 degrees.
CROSS = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -3.0]])
TRIANGLE = torch.tensor([[-1.0, 0.1], [0.0, 0.0], [1.0, 0.1]])


def objective(point, rows):
    return torch.linalg.vector_norm(rows - point, dim=1).sum()


def weiszfeld(rows, start):
    """A slow reference that starts at a given point."""
    point = start
    for _ in range(5_000):
        inverse = 1 / torch.linalg.vector_norm(rows - point, dim=1).clamp_min(1e-12)
        last, point = point, (inverse[:, None] * rows).sum(0) / inverse.sum()
        if torch.equal(last, point):
            break
    return point


def test_on_a_line():
    assert GeometricMedian()(LINE) == 2


def test_median_of_a_square_is_its_centre():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for scale in (1e-30, 1e-10, 1.0, 1e30):
        assert GeometricMedian()(rows * scale).abs().max() <= 2e-6 * scale
        torch.testing.assert_close(GeometricMedian().credits(rows * scale), torch.full((4,), 0.25))


def test_small_gradients_do_not_give_the_mean():
    # Four points in convex position: the optimum is where the diagonals cross. With a smoothing of 0.1, as
    # some libraries add it whatever the scale, it would be the mean.
    rows = torch.tensor([[0.0, 0.0], [1e-3, 0.0], [0.0, 1e-3], [1e-2, 1e-2]])
    torch.testing.assert_close(GeometricMedian()(rows), torch.tensor([5e-4, 5e-4]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("rows", [CROSS, TRIANGLE], ids=["cross", "triangle"])
def test_optimum_at_a_submission(rows):
    assert chosen(GeometricMedian().credits(rows)) == [1]


def test_submission_that_is_not_optimal_is_left():
    # Weiszfeld's iteration from the mean lands exactly on the second row and would never leave it.
    rows = torch.tensor([[-2.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    expected = reference.geometric_median(rows)
    np.testing.assert_allclose(GeometricMedian(tolerance=1e-10)(rows).numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("family", [f for f in reference.FAMILIES if f != "entry_magnitudes"])
@both_types
@pytest.mark.parametrize(("n", "f"), [(3, 1), (4, 1), (7, 2), (20, 8)])
def test_against_reference(family, dtype, n, f):
    rows = reference.draw(family, n, 4, seed=n, dtype=dtype)
    result = GeometricMedian(f)(rows).double().numpy()
    expected = reference.geometric_median(rows)
    scale = np.median(np.sqrt(((rows.double().numpy() - expected) ** 2).sum(1)))
    rounding = torch.finfo(dtype).eps * np.abs(expected).max()
    assert np.linalg.norm(result - expected) <= 2e-3 * scale + 10 * rounding
    optimum = reference.medoid_objective(rows, expected)
    assert reference.medoid_objective(rows, result) <= optimum * (1 + 1e-5) + 10 * n * rounding


@pytest.mark.parametrize("spread", [0.0, 1e-9, 1e-7, 1e-5, 1e-3])
@both_types
def test_near_copies_cannot_capture_it(spread, dtype):
    generator = torch.Generator().manual_seed(0)
    honest = 1 + torch.randn(6, 100, generator=generator, dtype=torch.float64)
    copies = -1 + spread * torch.randn(4, 100, generator=generator, dtype=torch.float64)
    rows = torch.cat([honest, copies]).to(dtype)
    rule = GeometricMedian(4)
    best = weiszfeld(rows.double(), honest.mean(0))
    assert objective(rule(rows).double(), rows.double()) <= objective(best, rows.double()) * (1 + 1e-6)
    exact = rows.clone()
    exact[6:] = -1
    torch.testing.assert_close(rule.credits(rows), rule.credits(exact), atol=0.01, rtol=0)
    assert rule.credits(rows)[6:].sum() < 0.4


@pytest.mark.parametrize("seed", range(8))
def test_rows_near_the_medoid_are_told_apart(seed):
    generator = torch.Generator().manual_seed(seed)
    near = 3e-4 * torch.randn(4, 2, generator=generator, dtype=torch.float64)
    rows = torch.cat([near, torch.randn(6, 2, generator=generator, dtype=torch.float64)])
    best = min(objective(point, rows) for point in (weiszfeld(rows, near.mean(0) + 1e-3), *rows))
    assert objective(GeometricMedian()(rows), rows) <= best * (1 + 1e-7)


@pytest.mark.parametrize(
    ("dtype", "small", "huge"), [(torch.float32, 1e-20, 1e30), (torch.float16, 1e-2, 6e4)]
)
def test_weight_too_small_for_the_type_counts(dtype, small, huge):
    rows = torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1.1], [1.2, 0.3]], dtype=torch.float64) * small
    rows[4] = huge
    rows = rows.to(dtype)
    expected = GeometricMedian()(rows.double()) / small
    assert expected.abs().min() > 0.2  # without the huge row: 0.15 and 0.13
    torch.testing.assert_close(GeometricMedian()(rows).double() / small, expected, rtol=2e-3, atol=0)


def gradient(rows, direction):
    """The gradient of the median's component in a direction, in double precision."""
    rows = rows.clone().requires_grad_()
    GeometricMedian()(rows).backward(direction.to(rows.dtype))
    return rows.grad.double()


def test_gradient_goes_to_an_optimal_submission():
    expected = torch.zeros(5, 2, dtype=torch.float64)
    expected[1] = torch.tensor([2.0, 3.0])
    assert torch.equal(gradient(CROSS, torch.tensor([2.0, 3.0])), expected)


def test_equal_optimal_rows_share_the_gradient():
    rows = torch.tensor([[5.0, 1.0], [0.1, 0.2], [0.1, 0.2], [-3.0, 9.0], [0.1, 0.2]])
    result = gradient(rows, torch.tensor([3.0, 6.0]))
    shared = torch.tensor([1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(result, torch.stack([0 * shared, shared, shared, 0 * shared, shared]))


@pytest.mark.parametrize("family", ["gaussian", "ties", "equal_rows", "offset", "zeros", "row_magnitudes"])
@pytest.mark.parametrize("seed", range(2))
@both_types
def test_gradient_follows_shifts_and_scaling(family, seed, dtype):
    """Shifting all rows by a vector shifts the median by it; scaling them scales it."""
    rows = reference.draw(family, 9, 6, seed, dtype)
    direction = reference.draw("gaussian", 1, 6, seed + 99, dtype)[0]
    result = gradient(rows, direction)
    torch.testing.assert_close(result.sum(0), direction.double(), rtol=1e-4, atol=1e-4)
    # About a nearby row, so that all sizes count.
    centred = rows.double() - rows.double()[result.norm(dim=1).argmax()]
    expected = GeometricMedian()(centred) @ direction.double()
    typical = float(centred.norm(dim=1).median())
    torch.testing.assert_close((result * centred).sum(), expected, rtol=1e-3, atol=1e-5 * typical)
