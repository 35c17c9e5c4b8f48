import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist, squareform
from sklearn.cluster import MeanShift, estimate_bandwidth

from byzgym.numerics.clustering import (
    average_linkage,
    cosine_distances,
    largest_mean_shift_cluster,
    single_linkage,
)

seeds = st.integers(0, 2**32 - 1)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_cosine_distances(scale, dtype):
    rows = (normal(3, 8, 50) * scale).to(dtype)
    rows[:, 1] = rows[:, 0] * 3
    expected = np.stack([squareform(pdist(run.double() / scale, "cosine")) for run in rows])
    np.testing.assert_allclose(cosine_distances(rows), expected, rtol=1e-5, atol=1e-14)


def test_small_cosine_distances_keep_their_digits():
    rows = torch.tensor([[1.0, 0.0], [1.0, 1e-6], [1.0, -2e-6]])
    expected = torch.tensor([[0, 0.5, 2], [0.5, 0, 4.5], [2, 4.5, 0]], dtype=torch.float64) * 1e-12
    torch.testing.assert_close(cosine_distances(rows), expected, rtol=1e-3, atol=0)


def test_zero_rows_are_alike_and_nothing_else():
    distances = cosine_distances(torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0]]))
    assert distances.tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]


@settings(max_examples=30, deadline=None)
@given(seed=seeds, n=st.integers(2, 30))
def test_single_linkage_against_scipy(seed, n):
    points = normal(n, 3, seed=seed)
    expected = squareform(hierarchy.cophenet(hierarchy.linkage(points, "single")))
    result = single_linkage(torch.cdist(points, points)[None])[0]
    off = ~np.eye(n, dtype=bool)
    np.testing.assert_allclose(result.numpy()[off], expected[off], rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, n=st.integers(2, 30))
def test_average_linkage_against_scipy(seed, n):
    points = normal(2, n, 3, seed=seed)
    labels = average_linkage(torch.linalg.vector_norm(points[:, :, None] - points[:, None], dim=-1))
    for run, found in zip(points, labels, strict=True):
        # fcluster looks for a distance between the last two merges, and SciPy 1.13 does not always find one.
        expected = hierarchy.cut_tree(hierarchy.linkage(run, "average"), n_clusters=2)[:, 0]
        same = expected[:, None] == expected
        np.testing.assert_array_equal((found[:, None] == found).numpy(), same)
        assert len(found.unique()) == 2


def test_average_linkage_of_few_and_of_equal_points():
    assert average_linkage(torch.zeros(1, 1, 1)).tolist() == [[0]]
    assert average_linkage(torch.zeros(1, 2, 2)).tolist() == [[0, 1]]
    assert len(average_linkage(torch.zeros(1, 5, 5)).unique()) == 2


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n=st.integers(4, 25), spread=st.sampled_from([0.0, 1.0, 4.0]))
def test_mean_shift_against_scikit_learn(seed, n, spread):
    points = normal(2, n, 3, seed=seed)
    points[:, : n // 3] += spread
    found = largest_mean_shift_cluster(points, 0.5)
    for run, member in zip(points.numpy(), found.numpy(), strict=True):
        bandwidth = estimate_bandwidth(run, quantile=0.5)
        labels = MeanShift(bandwidth=bandwidth, cluster_all=False).fit(run).labels_
        sizes = np.bincount(labels[labels >= 0])
        largest = [set(np.flatnonzero(labels == label)) for label in np.flatnonzero(sizes == sizes.max())]
        assert set(np.flatnonzero(member)) in largest


def test_mean_shift_of_few_points():
    points = torch.tensor([[[0.0], [1.0], [9.0]]], dtype=torch.float64)  # nearest others: 1, 1, 8 away
    assert largest_mean_shift_cluster(points[:, :1], 0.5).tolist() == [[True]]
    assert largest_mean_shift_cluster(points[:, :2], 0.5).tolist() == [[True, True]]
    assert largest_mean_shift_cluster(points, 0.5).tolist() == [[True, True, False]]


def test_mean_shift_of_equal_points():
    assert largest_mean_shift_cluster(torch.ones(1, 4, 3, dtype=torch.float64), 0.5).all()
    points = torch.tensor([[[0.0], [1.0], [0.0], [1.0], [0.0]]], dtype=torch.float64)
    assert largest_mean_shift_cluster(points, 0.4).tolist() == [[True, False, True, False, True]]
