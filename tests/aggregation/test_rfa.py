import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import LINE, both_types

from byzgym.aggregation import RFA, GeometricMedian


def weiszfeld(rows, steps, smoothing, start):
    """The smoothed Weiszfeld iteration on the vectors themselves: the weights and the point."""
    rows = np.asarray(rows.double(), dtype=np.longdouble)
    point = rows.mean(0) if start == "mean" else np.zeros_like(rows[0])
    for _ in range(steps):
        weights = np.array([1 / max(smoothing, np.sqrt(((x - point) ** 2).sum())) for x in rows])
        weights /= weights.sum()
        point = (weights[:, None] * rows).sum(0)
    return weights, point


def test_on_a_line():
    # One step from the mean 21.4: weights 1/21.4, 1/20.4, 1/19.4, 1/17.4, 1/78.6.
    torch.testing.assert_close(RFA(iterations=1)(LINE), torch.tensor([7.6062]), rtol=1e-4, atol=0)
    # One step from zero with nu = 1: weights 1, 1, 1/2, 1/4, 1/100, and a sum of 4.
    rule = RFA(iterations=1, smoothing=1.0, start="zero")
    torch.testing.assert_close(rule(LINE), torch.tensor([4 / 2.76]))
    torch.testing.assert_close(rule.credits(LINE), torch.tensor([1, 1, 0.5, 0.25, 0.01]) / 2.76)


@both_types
@pytest.mark.parametrize("start", ["mean", "zero"])
@pytest.mark.parametrize("family", [f for f in reference.FAMILIES if f != "entry_magnitudes"])
@pytest.mark.parametrize(("n", "steps"), [(1, 1), (2, 3), (3, 3), (10, 3), (10, 8), (30, 1)])
def test_against_reference(family, start, dtype, n, steps):
    rows = reference.draw(family, n, 6, seed=n, dtype=dtype)
    weights, point = weiszfeld(rows, steps, 1e-6, start)
    scale = (weights[:, None] * np.abs(rows.double().numpy())).sum(0)
    error = np.abs(RFA(iterations=steps, start=start)(rows).double().numpy() - point)
    assert (error <= reference.RTOL[dtype] * scale + 1e-44).all()


@pytest.mark.parametrize("family", ["gaussian", "offset", "ties"])
def test_many_steps_lead_to_the_geometric_median(family):
    rows = reference.draw(family, 9, 4, seed=0, dtype=torch.float64)
    median = GeometricMedian(tolerance=1e-10)(rows)
    torch.testing.assert_close(RFA(iterations=3000, smoothing=1e-9)(rows), median, rtol=1e-5, atol=1e-6)


def test_smoothing_is_absolute_unless_told():
    rows = 1e-9 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [10.0, 10.0]])
    torch.testing.assert_close(RFA(iterations=200)(rows), rows.mean(0))
    for scale in (1e-20, 1.0, 1e20):
        result = RFA(iterations=200, relative=True)(rows * scale)
        torch.testing.assert_close(result, torch.full((2,), 5e-10 * scale), rtol=1e-3, atol=0)
    assert torch.equal(RFA(relative=True)(torch.ones(5, 3)), torch.ones(3))


@pytest.mark.parametrize(
    "wrong", [{"iterations": 0}, {"smoothing": 0}, {"relative": 1}, {"start": "median"}], ids=str
)
def test_bad_parameters_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RFA(**wrong)
