import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import LINE, both_types, every_family, sizes

from byzgym import aggregation
from byzgym.aggregation import MeanAroundMedian, Median, TrimmedMean


def test_on_a_line():
    assert Median(2)(LINE) == 2
    torch.testing.assert_close(TrimmedMean(1)(LINE), torch.tensor([7 / 3]))
    assert TrimmedMean(2)(LINE) == 2
    assert MeanAroundMedian(1)(LINE) == 7 / 4
    # 0 and 4 are equally far from 2: the smaller one counts.
    assert MeanAroundMedian(2)(LINE) == 1


@every_family
@both_types
@sizes
def test_against_reference(family, dtype, n, f):
    rows = reference.draw(family, n, 17, seed=n, dtype=dtype)
    largest = np.abs(rows.double().numpy()).max(0)
    rtol = 8 * torch.finfo(dtype).eps

    expected = reference.median(rows)
    error = np.abs(Median(f)(rows).double().numpy() - expected)
    assert (error <= rtol * largest).all()
    assert (error <= rtol * np.abs(expected) + 1e-45).all() or n % 2 == 0

    expected, largest_kept = reference.trimmed_mean(rows, f)
    error = np.abs(TrimmedMean(f)(rows).double().numpy() - expected)
    assert (error <= n * rtol * largest_kept).all()

    result = MeanAroundMedian(f)(rows).double().numpy()
    assert reference.is_mean_around_median(rows, n - f, result, n * rtol)


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "mean_around_median", "bulyan"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(name, dtype):
    rows = (1 + torch.rand(60, 40, generator=torch.Generator().manual_seed(0))).to(dtype)
    rule = aggregation.make(name, num_byzantine=0)
    assert torch.equal(rule(rows), rule(rows.float()).to(dtype))


def test_columns_do_not_depend_on_each_other():
    rows = torch.full((10, 70_000), 1.0, dtype=torch.float16)
    rows[:, 0] = torch.linspace(1e-5, 2e-5, 10).half()
    assert Median()(rows)[0] == Median()(rows[:, :10])[0]
