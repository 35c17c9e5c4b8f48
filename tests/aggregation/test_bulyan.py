import aggregation_reference as reference
import pytest
import torch
from aggregation_reference import LINE, both_types

from byzgym.aggregation import Bulyan


def test_without_byzantine_workers_is_the_mean():
    torch.testing.assert_close(Bulyan()(LINE), torch.tensor([21.4]))


def test_on_a_line():
    # theta = 5 picks by Krum. Seven left, 4 neighbours: 3 scores 4+1+1+4 = 10, the least. Without it, six
    # left, 3 neighbours: 1 scores 1+1+9, 2 scores 1+4+4 and 4 scores 1+4+9: pick 2. Five left, 2 neighbours:
    # 0, 1, 4, 5, 50: 1 scores 1+9, 4 scores 1+9, 5 scores 1+16, 0 scores 1+16: pick 1, the first. Four left,
    # one neighbour: 0, 4, 5, 50: 4 and 5 score 1: pick 4. Three left: 0, 5, 50: 0 and 5 score 25: pick 0.
    # Of 0, 1, 2, 3, 4 the three nearest to 2 have the mean 2.
    rows = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [50.0]])
    assert Bulyan(1)(rows) == 2


@pytest.mark.parametrize(
    ("family", "n", "f"),
    [
        (family, n, f)
        for family in ("gaussian", "row_magnitudes", "offset", "far_cluster", "ties")
        for n, f in ((3, 0), (7, 1), (8, 1), (11, 2), (15, 3))
        if n <= 11 or family not in ("ties", "far_cluster")  # which have too many right outcomes
    ],
)
@both_types
def test_against_reference(family, dtype, n, f):
    rows = reference.draw(family, n, 6, seed=n, dtype=dtype)
    result = Bulyan(f)(rows).double().numpy()
    rtol = 100 * torch.finfo(dtype).eps
    assert any(
        reference.is_mean_around_median(rows[sorted(picked)], n - 4 * f, result, rtol)
        for picked in reference.bulyan_selections(rows, f, 1e-5)
    )
