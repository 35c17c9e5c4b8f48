import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import LINE, RTOL, both_types

from byzgym.aggregation import CAF


def filter_rows(rows, num_byzantine):
    """The filter as defined, on covariance matrices: the best mean and its weights."""
    rows = rows.double().numpy()
    weights, least, best = np.ones(len(rows)), np.inf, None
    while True:
        shares = weights / weights.sum()
        mean = shares @ rows
        centred = rows - mean
        values, vectors = np.linalg.eigh((shares[:, None] * centred).T @ centred)
        if values[-1] < least:
            least, best = values[-1], (mean, shares)
        squares = (centred @ vectors[:, -1]) ** 2
        most = squares[weights > 0].max()
        if most <= 1e-30:
            return best
        weights = np.where(weights > 0, weights * np.clip(1 - squares / most, 0, None), 0)
        if weights.sum() <= len(rows) - 2 * num_byzantine:
            return best


def test_on_a_line():
    # From the mean 21.4 the squares are 457.96, 416.16, 376.36, 302.76, 6177.96. The weights become 0.92587,
    # 0.93264, 0.93908, 0.95099, 0, with sum 3.7486 > 3 and mean 1.7646; after the next step they sum to 2.1.
    torch.testing.assert_close(CAF(1)(LINE), torch.tensor([1.7646]), rtol=1e-4, atol=0)
    assert CAF(1).credits(LINE)[4] == 0


def test_without_byzantine_workers_it_is_the_mean():
    torch.testing.assert_close(CAF(0)(LINE), LINE.mean(0))


@pytest.mark.parametrize("family", ["gaussian", "equal_rows", "offset", "zeros"])
@both_types
@pytest.mark.parametrize(("n", "f"), [(1, 0), (2, 0), (3, 1), (5, 2), (9, 3), (20, 9)])
def test_against_reference(family, dtype, n, f):
    rows = reference.draw(family, n, 6, seed=n, dtype=dtype)
    centred = rows.double() - rows.double().mean(0)
    mean, shares = filter_rows(centred, f)
    result = CAF(f).credits(rows).double()
    np.testing.assert_allclose(result @ centred, mean, atol=1e-3 * float(centred.abs().max()) + 1e-12)
    if len({tuple(row) for row in rows.tolist()}) == n > 2:  # two alone have one direction, and weights tie
        np.testing.assert_allclose(result, shares, atol=max(RTOL[dtype], 1e-6))


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_each_direction_of_attack_is_found(size):
    rows = reference.draw("gaussian", 20, 30, seed=0)
    for row in range(9):
        rows[row] = 0
        rows[row, row] = 1e3 * 1.5**row
    assert not CAF(9).credits(rows * size)[:9].any()
    result = CAF(9)(rows * size) / size
    assert (result - rows[9:].mean(0)).norm() < 2 * rows[9:].norm(dim=1).mean()


def test_a_submission_without_weight_does_not_slow_the_filter():
    # Once the first is gone, the second stands out; beside the first it would keep its weight for ever.
    rows = torch.zeros(7, 2)
    rows[0], rows[1] = torch.tensor([1e12, 1e12]), torch.tensor([1e3, 0.0])
    rows[2:, 0] = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    rows[2:, 1] = torch.tensor([1.0, -2.0, 2.0, -1.0, 0.0])
    assert not CAF(2).credits(rows)[:2].any()


def test_a_run_that_loses_all_weight_in_a_step_spoils_no_other():
    # In the first run all are equally far from the mean 1, so that the first step takes all weight. In the
    # second one 100 loses it first, which leaves two more steps.
    rows = torch.tensor([[0.0, 0.0, 2.0, 2.0, 1.0], [0.0, 1.0, 2.0, 4.0, 100.0]])[..., None]
    both = CAF(1)(rows)
    torch.testing.assert_close(both, torch.tensor([[1.0], [1.7646]]), rtol=1e-4, atol=0)
    pairs = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 1.0, 2.0, 50.0]])[..., None]
    torch.testing.assert_close(CAF(1)(pairs), torch.stack([CAF(1)(pair) for pair in pairs]))
    assert CAF(1)(pairs)[0] == 1
