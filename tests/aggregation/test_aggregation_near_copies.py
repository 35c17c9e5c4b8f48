"""The geometric median beside submissions that are all but equal, or far smaller than others."""

import pytest
import torch

from byzgym import aggregation


def objective(point, rows):
    return torch.linalg.vector_norm(rows - point, dim=1).sum()


def weiszfeld(rows, start):
    """A slow reference, from a start of one's own choice."""
    point = start
    for _ in range(5_000):
        inverse = 1 / torch.linalg.vector_norm(rows - point, dim=1).clamp_min(1e-12)
        last, point = point, (inverse[:, None] * rows).sum(0) / inverse.sum()
        if torch.equal(last, point):
            break
    return point


@pytest.mark.parametrize("spread", [0.0, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_minority_of_near_copies_does_not_capture_it(spread, dtype):
    generator = torch.Generator().manual_seed(0)
    honest = 1 + torch.randn(6, 100, generator=generator, dtype=torch.float64)
    copies = -1 + spread * torch.randn(4, 100, generator=generator, dtype=torch.float64)
    rows = torch.cat([honest, copies]).to(dtype)
    rule = aggregation.make("geometric_median", num_byzantine=4)
    reference = weiszfeld(rows.double(), honest.mean(0))
    assert objective(rule(rows).double(), rows.double()) <= objective(reference, rows.double()) * (1 + 1e-6)
    exact = rows.clone()
    exact[6:] = -1
    torch.testing.assert_close(rule.credits(rows), rule.credits(exact), atol=0.01, rtol=0)
    assert rule.credits(rows)[6:].sum() < 0.4


@pytest.mark.parametrize("seed", range(20))
def test_rows_near_the_medoid_are_not_taken_for_it_in_the_end(seed):
    generator = torch.Generator().manual_seed(seed)
    near = 3e-4 * torch.randn(4, 2, generator=generator, dtype=torch.float64)
    rows = torch.cat([near, torch.randn(6, 2, generator=generator, dtype=torch.float64)])
    found = aggregation.make("geometric_median", num_byzantine=4)(rows)
    reference = weiszfeld(rows, near.mean(0) + 1e-3)
    best = min(objective(point, rows) for point in (reference, *rows))
    assert objective(found, rows) <= best * (1 + 1e-7)


@pytest.mark.parametrize("seed", range(12))
def test_pairs_of_near_copies(seed):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    rows = torch.cat([points, points + 1e-6 * torch.randn(3, 2, generator=generator, dtype=torch.float64)])
    found = aggregation.make("geometric_median", num_byzantine=2)(rows)
    assert objective(found, rows) <= objective(weiszfeld(rows, points.mean(0)), rows) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("dtype", "small", "huge"), [(torch.float32, 1e-20, 1e30), (torch.float16, 1e-2, 6e4)]
)
def test_a_weight_too_small_for_the_type_still_counts(dtype, small, huge):
    rows = torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1.1], [1.2, 0.3]], dtype=torch.float64) * small
    rows[4] = huge
    rows = rows.to(dtype)
    rule = aggregation.make("geometric_median", num_byzantine=2)
    expected = rule(rows.double()) / small
    assert expected.abs().min() > 0.2  # without the huge row: 0.15 and 0.13
    torch.testing.assert_close(rule(rows).double() / small, expected, rtol=2e-3, atol=0)


def test_of_equal_rows_faba_drops_the_first():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        points = torch.randn(3, 1, generator=generator, dtype=torch.float64)
        credits = aggregation.make("faba", num_byzantine=1).credits(torch.cat([points] * 5))
        dropped = int((credits == 0).nonzero())
        assert dropped < 3


def test_norms_of_millions_of_entries_keep_their_digits():
    rows = torch.randn(1, 12_000_000, generator=torch.Generator().manual_seed(0))
    clipped = aggregation.make("norm_clipping", max_norm=1.0)(rows)
    assert float(clipped.double().norm()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "mean_around_median", "bulyan"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(name, dtype):
    rows = (1 + torch.rand(60, 40, generator=torch.Generator().manual_seed(0))).to(dtype)
    rule = aggregation.make(name)
    assert torch.equal(rule(rows), rule(rows.float()).to(dtype))


def test_a_column_does_not_depend_on_the_number_of_others():
    rows = torch.full((10, 70_000), 1.0, dtype=torch.float16)
    rows[:, 0] = torch.linspace(1e-5, 2e-5, 10).half()
    rule = aggregation.make("median")
    assert rule(rows)[0] == rule(rows[:, :10])[0]
