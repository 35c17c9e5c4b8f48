import dataclasses

import numpy as np
import pytest

from byzgym.experiments import traces


def test_bins_hold_means_and_most_frequent_roles():
    credits = np.array([[0.0, 1.0], [0.5, 0.5], [0.2, 0.8], [0.4, 0.6], [1.0, 0.0]])
    byzantine = np.array([[1, 0], [1, 0], [1, 0], [0, 0], [0, 0]], bool)
    rounds, workers, means, roles = traces.thinned({"credits": credits, "byzantine": byzantine}, 3)
    assert rounds.tolist() == [1, 3, 5, 6]
    assert workers.tolist() == [1, 0]  # who is honest more often comes first
    assert means == pytest.approx(np.array([[0.75, 0.25], [0.7, 0.3], [0.0, 1.0]]))
    assert roles.tolist() == [[False, True], [False, False], [False, False]]


def test_who_has_not_taken_part_has_no_credit():
    held = {
        "credits": np.array([[0.4, 0.6], [1.0, 0.0]]),
        "byzantine": np.zeros((2, 2), bool),
        "workers": np.array([[3, 7], [7, 5]]),
    }
    _, workers, means, _ = traces.thinned(held, 2)
    assert workers.tolist() == [3, 5, 7]
    np.testing.assert_allclose(means, [[0.4, np.nan, 0.6], [np.nan, 0.0, 1.0]])


def test_of_many_workers_some_are_shown():
    credits = np.full((4, 1000), 1e-3)
    byzantine = np.arange(1000) >= 500
    held = {"credits": credits, "byzantine": np.tile(byzantine, (4, 1))}
    _, workers, means, roles = traces.thinned(held, 100)
    assert len(workers) == traces.MOST_WORKERS
    assert means.shape == (4, traces.MOST_WORKERS)
    assert roles[0].sum() == traces.MOST_WORKERS / 2


def test_traces_are_those_of_the_first_seed(results):
    found = traces.read(results, 7)
    assert {(trace.policy, trace.attack) for trace in found} >= {
        ("oracle", "sign_flip"),
        ("mean", "sign_flip"),
    }
    assert {trace.seed for trace in found} == {0}
    oracle = next(trace for trace in found if trace.policy == "oracle")
    assert oracle.byzantine.sum(1).tolist() == [7] * 20
    assert (oracle.credits[oracle.byzantine] == 0).all()
    assert "median" not in {trace.policy for trace in found}
    assert traces.read(dataclasses.replace(results, folder=None), 7) == []
