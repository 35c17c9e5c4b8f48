"""Agreement with ByzFL where its definitions are the same."""

import aggregation_reference as reference
import pytest
import torch

from byzgym import aggregation

byzfl = pytest.importorskip("byzfl")


@pytest.mark.parametrize(("n", "f"), [(9, 2), (20, 6)])
def test_same_definitions_same_results(n, f):
    rows = reference.draw("gaussian", n, 50, seed=n)
    pairs = {
        "mean": byzfl.Average(),
        "median": byzfl.Median(),
        "trimmed_mean": byzfl.TrMean(f=f),
        "mean_around_median": byzfl.Meamed(f=f),
    }
    for name, theirs in pairs.items():
        torch.testing.assert_close(aggregation.make(name, num_byzantine=f)(rows), theirs(rows))
    if n < 15:
        torch.testing.assert_close(
            aggregation.make("brute_force", num_byzantine=f)(rows), byzfl.MDA(f=f)(rows)
        )
