import aggregation_reference as reference
import pytest
import torch
from aggregation_reference import LINE, RTOL, both_types, chosen, every_family

from byzgym.aggregation import Medoid


def test_on_a_line():
    assert Medoid()(LINE) == 2  # sums of distances: 107, 104, 103, 105, 393


@every_family
@both_types
@pytest.mark.parametrize(("n", "f"), [(3, 0), (4, 1), (7, 2), (11, 5)])
def test_against_reference(family, dtype, n, f):
    rows = reference.draw(family, n, 5, seed=n, dtype=dtype)
    (best,) = chosen(Medoid(f).credits(rows))
    assert torch.equal(Medoid(f)(rows), rows[best])
    objectives = [reference.medoid_objective(rows, point) for point in rows.double().numpy()]
    assert objectives[best] <= min(objectives) * (1 + RTOL[dtype])


def test_beside_an_outlier_that_swallows_sums():
    # In double precision every sum of distances is 1e30; the row at 1e5 is still no medoid.
    rows = torch.tensor([[1e5, 0.0], [1.0, 0.0], [0.0, 0.1], [0.5, 0.2], [1e30, 0.0], [0.2, 0.0]])
    assert chosen(Medoid().credits(rows))[0] in (1, 2, 3, 5)
