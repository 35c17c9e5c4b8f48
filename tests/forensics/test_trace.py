import numpy as np
import pytest

from byzgym.forensics import Trace


def test_what_is_not_given_is_unknown():
    trace = Trace(credits=[[0.5, 0.5], [1, 0], [np.nan, np.nan]])
    assert (trace.num_rounds, trace.num_workers) == (3, 2)
    assert np.isnan(trace.cosine).all()
    assert np.isnan(trace.qv_loss).all()
    assert trace.copy_of.tolist() == [[0, 1]] * 3
    assert trace.round.tolist() == [0, 1, 2]
    assert not trace.rejected.any()


def test_it_keeps_copies():
    credits = np.ones((2, 2))
    trace = Trace(credits=credits)
    credits[:] = 7
    assert (trace.credits == 1).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "credits or cosine"),
        ({"credits": [0.5, 0.5]}, r"shape \[T, n\], got \[2\]"),
        ({"credits": np.zeros((0, 3))}, r"got \[0, 3\]"),
        ({"credits": [[1, 0]], "norm": [[1, 1, 1]]}, r"norm must have shape \[1, 2\], got \[1, 3\]"),
        ({"credits": [[1, 0]], "round": [1, 2]}, r"round must have shape \[1\]"),
        ({"credits": [[1, -0.5]]}, "credits must be numbers of at least 0, got -0.5"),
        ({"credits": [[1, np.inf]]}, "credits must be .* got inf"),
        ({"cosine": [[1, -1.5]]}, "cosine must be numbers from -1 to 1, got -1.5"),
        ({"credits": [[1, 0]], "norm": [[1, -1]]}, "norm"),
        ({"credits": [[1, 0]], "copy_of": [[0, 2]]}, "copy_of must be from 0 to 1, got 2"),
    ],
)
def test_mistakes(given, message):
    with pytest.raises(ValueError, match=message):
        Trace(**given)
