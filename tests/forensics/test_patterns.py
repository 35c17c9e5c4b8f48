import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from byzgym.forensics.patterns import PATTERNS, pattern, settled, stretches

ROUNDS = np.arange(200)


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        (ROUNDS < 0, ("honest", None, None)),
        (ROUNDS >= 0, ("byzantine", 0, None)),
        (ROUNDS % 50 != 49, ("byzantine", 0, None)),
        (ROUNDS >= 30, ("sleeper", 30, None)),
        ((ROUNDS >= 190) & (ROUNDS != 195), ("intermittent", 190, None)),
        ((ROUNDS >= 80) & (ROUNDS != 100), ("sleeper", 80, None)),
        (ROUNDS % 40 < 20, ("periodic", 0, 40)),
        (ROUNDS % 40 >= 20, ("periodic", 20, 40)),
        (ROUNDS % 2 == 1, ("periodic", 1, 2)),
        ((ROUNDS + 7) % 50 < 10, ("periodic", 0, 50)),
        (ROUNDS < 100, ("intermittent", 0, None)),
        ((ROUNDS % 40 < 20) & (ROUNDS < 100), ("intermittent", 0, None)),
        (
            (ROUNDS > 20) & (ROUNDS < 30) | (ROUNDS > 50) & (ROUNDS < 90) | (ROUNDS > 100) & (ROUNDS < 110),
            None,
        ),
    ],
)
def test_patterns(role, expected):
    assert pattern(role) == (expected or ("intermittent", 21, None))


def test_attacks_that_begin_nearly_regularly_are_periodic():
    role = np.zeros(200, dtype=bool)
    for start, end in [(10, 20), (51, 60), (90, 101), (131, 140)]:
        role[start:end] = True
    assert pattern(role) == ("periodic", 10, 40)
    role[90:101], role[110:120] = False, True
    assert pattern(role)[0] == "intermittent"


def test_stretches_by_hand():
    accused = np.array([1, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1], dtype=bool)
    assert stretches(accused) == [(0, 1), (2, 4), (7, 8), (11, 14)]
    assert stretches(accused, 2) == [(0, 4), (11, 14)]
    assert stretches(accused, 3) == [(0, 4), (11, 14)]
    assert stretches(accused, 4) == [(0, 14)]
    assert stretches(np.zeros(3, dtype=bool)) == []


def test_a_policy_has_a_tenth_of_the_run_to_learn():
    accused = np.stack([ROUNDS >= 20, ROUNDS >= 21, (ROUNDS >= 20) & (ROUNDS < 60), ROUNDS % 40 >= 20], 1)
    roles = settled(accused)
    assert roles[:, 0].all()
    assert (roles[:, 1] == accused[:, 1]).all()
    assert roles[:, 2].tolist() == (ROUNDS < 60).tolist()
    assert (roles[40:, 3] == accused[40:, 3]).all()


def test_rare_accusations_do_not_count():
    late = ROUNDS >= 100
    accused = np.stack([late & (ROUNDS < 109), late & (ROUNDS < 110), ROUNDS == 18], 1)
    assert settled(accused).any(0).tolist() == [False, True, False]


@given(arrays.arrays(bool, st.tuples(st.integers(1, 40), st.just(3))), st.integers(1, 5))
def test_any_roles_have_a_pattern(accused, shortest):
    roles = settled(accused, shortest)
    for worker in range(3):
        kind, since, period = pattern(roles[:, worker])
        assert kind in PATTERNS
        assert (since is None) == (kind == "honest") == (not roles[:, worker].any())
        assert (period is None) == (kind != "periodic")
        assert all(end - start >= shortest for start, end in stretches(accused[:, worker], shortest))
