import aggregation_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist

from byzgym.aggregation import ClippedClustering, ServerView
from byzgym.memory import Memory


def cluster(rows, limit=None):
    rows = rows.double().numpy()
    norms = np.linalg.norm(rows, axis=1)
    limit = np.median(norms) if limit is None else limit
    labels = hierarchy.cut_tree(hierarchy.linkage(pdist(rows, "cosine"), "average"), n_clusters=2)[:, 0]
    sizes = np.bincount(labels)
    kept = np.flatnonzero(sizes[labels] == sizes.max())
    return np.mean([rows[i] * min(1, limit / norms[i]) for i in kept], axis=0)


def view_of(rows, memory):
    return ServerView(rows, torch.zeros(len(rows), rows.shape[2]), 0.1, None, memory=memory)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 20), f=st.integers(0, 5))
def test_against_reference(seed, n, f):
    rows = reference.draw("gaussian", n, 8, seed=seed, dtype=torch.float64)
    rows[:f] = 5 * rows[:f] - 2
    np.testing.assert_allclose(ClippedClustering()(rows), cluster(rows), rtol=1e-6, atol=1e-9)


def test_equally_large_clusters_are_both_kept():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.0, 4.0]])
    middle = (1 + 1.01**0.5) / 2
    expected = torch.stack([rows[0], rows[1] * middle / 1.01**0.5, rows[2], rows[3] * middle / 4]).mean(0)
    torch.testing.assert_close(ClippedClustering()(rows), expected)


def test_one_and_zero_rows():
    assert torch.equal(ClippedClustering()(torch.tensor([[3.0, 4.0]])), torch.tensor([3.0, 4.0]))
    assert not ClippedClustering()(torch.zeros(5, 3)).any()


@pytest.mark.parametrize("history", [1, 3, 1000])
def test_the_median_is_over_all_norms_so_far(history):
    memory, rule, seen = Memory(2), ClippedClustering(2, history=history), []
    for number in range(6):
        rows = reference.draw("gaussian", 14, 8, seed=number).reshape(2, 7, 8) / (number + 1)
        rows[1, 3] = torch.nan if number in (1, 4) else rows[1, 3]
        seen.append(rows.norm(dim=2).double().numpy())
        update = rule.decide(view_of(rows, memory)).update
        for env in range(2):
            limit = np.nanmedian([norms[env] for norms in seen[-history:]])
            accepted = rows[env][rows[env].isfinite().all(1)]
            np.testing.assert_allclose(update[env], cluster(accepted, limit), rtol=1e-4, atol=1e-6)


def test_without_a_memory_it_is_this_rounds_median():
    rows = reference.draw("gaussian", 14, 8, seed=0).reshape(2, 7, 8)
    assert torch.equal(ClippedClustering(2).decide(view_of(rows, None)).update, ClippedClustering(2)(rows))


def test_an_environment_that_begins_anew_forgets():
    memory, rule = Memory(2), ClippedClustering(2)
    rows = reference.draw("gaussian", 14, 8, seed=0).reshape(2, 7, 8)
    first = rule.decide(view_of(rows, memory)).update
    rule.decide(view_of(rows / 100, memory))
    memory.reset([0])
    again = rule.decide(view_of(rows, memory)).update
    torch.testing.assert_close(again[0], first[0])
    assert (again[1] - first[1]).abs().max() > 0.01


def test_all_rejected_at_first():
    rows, memory, rule = torch.full((1, 5, 3), torch.nan), Memory(1), ClippedClustering(2)
    assert not rule.decide(view_of(rows, memory)).update.any()
    rows = reference.draw("gaussian", 5, 3, seed=0)
    torch.testing.assert_close(rule.decide(view_of(rows[None], memory)).update[0], rule(rows))


def test_history_must_be_positive():
    with pytest.raises(ValueError, match="history"):
        ClippedClustering(history=0)
