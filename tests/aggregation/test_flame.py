import aggregation_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform
from sklearn.cluster import HDBSCAN

from byzgym.aggregation import FLAME


def flame(rows):
    """The rule without noise, with scikit-learn's HDBSCAN."""
    rows = rows.double().numpy()
    distances = squareform(pdist(rows, "cosine"))
    cluster = HDBSCAN(
        min_cluster_size=len(rows) // 2 + 1,
        min_samples=1,
        metric="precomputed",
        allow_single_cluster=True,
        copy=True,
    )
    kept = np.flatnonzero(cluster.fit(distances).labels_ == 0)
    norms = np.linalg.norm(rows, axis=1)
    return np.mean([rows[i] * min(1, np.median(norms) / norms[i]) for i in kept], axis=0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 20), f=st.integers(0, 5))
def test_against_hdbscan(seed, n, f):
    rows = reference.draw("gaussian", n, 8, seed=seed, dtype=torch.float64) + 1
    rows[:f] *= -3
    np.testing.assert_allclose(FLAME(noise=0)(rows), flame(rows), rtol=1e-6, atol=1e-9)


def test_by_hand():
    # At 18 degrees the first three are linked, more than half of five; the fourth is 30 degrees away.
    degrees = torch.tensor([0.0, 10.0, 28.0, 58.0, 180.0]).deg2rad()
    rows = torch.stack([degrees.cos(), degrees.sin()], 1) * torch.tensor([[1.0], [2.0], [4.0], [2.0], [9.0]])
    expected = (rows[0] + rows[1] + rows[2] / 2) / 3
    torch.testing.assert_close(FLAME(2, noise=0)(rows), expected)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_and_zero_rows(n):
    rows = torch.ones(n, 4)
    torch.testing.assert_close(FLAME(noise=0)(rows), rows[0])
    assert not FLAME()(0 * rows).any()


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_noise(size):
    rows = size * torch.ones(2, 5, 40_000)
    noise = (FLAME(noise=0.01)(rows) - rows[:, 0]) / size
    assert noise.std() == pytest.approx(0.01 * 40_000**0.5, rel=0.02)
    assert abs(noise.mean()) < 0.05
    torch.testing.assert_close(FLAME(noise=0.02)(rows) / size - 1, 2 * noise, rtol=1e-4, atol=1e-5)
    assert torch.equal(FLAME(noise=0.01)(rows), FLAME(noise=0.01)(rows))


def test_noise_must_not_be_negative():
    with pytest.raises(ValueError, match="noise must be a finite number of at least 0, got -1"):
        FLAME(noise=-1)
