import numpy as np
import pytest
from forensics_cases import roles, trusting
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from byzgym.forensics import Trace, calibrate, split, suspicion


def test_credit_by_hand():
    # Fair is 0.25: a worker with more is trusted, one with 0.2 lacks a fifth of it.
    scores = suspicion(Trace(credits=[[0.5, 0.25, 0.2, 0.05], [0.25, 0.125, 0.1, 0.025]]))
    np.testing.assert_allclose(scores, [[0, 0, 0.2, 0.8]] * 2)


def test_unlike_by_hand():
    # The credited workers 0 and 1 have mean cosine 0.3 and the median length 2; worker 2 is 0.4 away in the
    # cosine, worker 3 by 0.3 in log10 of the length.
    trace = Trace(credits=[[0.5, 0.5, 0, 0]], cosine=[[0.2, 0.4, -0.1, 0.3]], norm=[[2, 2, 2, 2 * 10**-0.3]])
    np.testing.assert_allclose(suspicion(trace), [[0, 0, 0.4, 0.3]], atol=1e-12)


def test_who_holds_nearly_all_credit_counts_as_its_fair_share():
    # The weights are 1 and three times 0.4 / 3, so the reference is (0.5 + 0.28 / 3) / 1.4 = 0.42381.
    trace = Trace(credits=[[0.9, 0.1 / 3, 0.1 / 3, 0.1 / 3]], cosine=[[0.5, 0.5, 0.5, -0.3]])
    assert suspicion(trace)[0, 3] == pytest.approx((1 - 0.4 / 3) * 0.7238095)


def test_copies_and_rejected_submissions_are_unlike():
    trace = Trace(
        credits=[[0.5, 0.5, 0, 0, 0]],
        cosine=[[0.2, 0.2, 0.2, 0.2, np.nan]],
        norm=[[1, 1, 1, 1, np.nan]],
        copy_of=[[0, 1, 2, 2, 4]],
        rejected=[[False] * 4 + [True]],
    )
    np.testing.assert_allclose(suspicion(trace), [[0, 0, 1, 1, 1]])


def test_credit_of_near_copies_does_not_count():
    # Krum's credit goes to one of two copies; the median of the others has cosine 0.2.
    cosine, copies = [[0.9, 0.9, 0.1, 0.2, 0.3]], [[0, 0, 2, 3, 4]]
    trace = Trace(credits=[[1, 0, 0, 0, 0]], cosine=cosine, copy_of=copies)
    np.testing.assert_allclose(suspicion(trace), [[1, 1, 0.1, 0, 0.1]], atol=1e-12)


def test_without_credits_the_median_worker_is_the_measure():
    trace = Trace(cosine=[[0.5, 0.4, 0.6, -0.5]], norm=[[1, 1, 1, 1]])
    np.testing.assert_allclose(suspicion(trace), [[0.05, 0.05, 0.15, 0.95]])


def test_rounds_without_any_credit_and_zero_norms():
    trace = Trace(credits=[[0, 0, 0]], cosine=[[np.nan] * 3], norm=[[1, 1, 0]])
    np.testing.assert_allclose(suspicion(trace), [[0, 0, 1]])


def test_averages_over_a_window():
    credits = np.zeros((9, 2))
    credits[:, 0], credits[4] = 1, (0, 1)
    assert suspicion(Trace(credits=credits), 1)[:, 0].tolist() == [0] * 4 + [1] + [0] * 4
    # With 3 rounds: 2 of 3 are more than the fair half.
    assert suspicion(Trace(credits=credits), 3)[:, 0].max() == 0
    np.testing.assert_allclose(suspicion(Trace(credits=credits), 3)[3:6, 1], [1 / 3] * 3)


@given(
    arrays.arrays(float, (6, 5), elements=st.one_of(st.just(0.0), st.floats(1e-6, 1))),
    arrays.arrays(float, (6, 5), elements=st.floats(-1, 1)),
    arrays.arrays(float, (6, 5), elements=st.one_of(st.just(np.nan), st.just(0.0), st.floats(1e-30, 1e30))),
    st.sampled_from([1, 3]),
    st.permutations(range(5)),
)
def test_suspicion_is_between_0_and_1_and_treats_workers_alike(credits, cosine, norm, window, order):
    trace = Trace(credits=credits, cosine=cosine, norm=norm)
    scores = suspicion(trace, window)
    assert ((scores >= 0) & (scores <= 1)).all()
    moved = Trace(credits=credits[:, order], cosine=cosine[:, order], norm=norm[:, order])
    np.testing.assert_allclose(suspicion(moved, window), scores[:, order], atol=1e-9)
    # The unit of gradients does not matter, nor how much credit there is in all.
    scaled = Trace(credits=credits / 2, cosine=cosine, norm=norm * 8)
    np.testing.assert_allclose(suspicion(scaled, window), scores, atol=1e-6)


def test_split_by_hand():
    # Means 0.1 and 0.8, standard deviations 0.1 and 0.2.
    threshold, separation, gap = split(np.array([[0.0, 0.2], [0.6, 1.0]]))
    assert (threshold, gap) == pytest.approx((0.4, 0.7))
    assert separation == pytest.approx(np.sqrt(2) * 0.7 / np.sqrt(0.05))


def test_equal_scores_are_one_kind():
    assert split(np.full((3, 3), 0.4)) == (0.4, 0.0, 0.0)
    assert split(np.array([0.7]))[1:] == (0.0, 0.0)


@pytest.mark.parametrize("shape", ["normal", "uniform", "exponential", "beta"])
def test_one_population_is_not_split(shape):
    random = np.random.default_rng(0)
    draws = {
        "normal": lambda: random.normal(0.5, 0.15, 2000),
        "uniform": lambda: random.uniform(size=2000),
        "exponential": lambda: random.exponential(0.2, 2000),
        "beta": lambda: random.beta(0.5, 3, 2000),
    }
    assert split(draws[shape]().clip(0, 1))[1] < 4


def test_threshold_separates_two_kinds():
    threshold, scores = calibrate(trusting(roles(40, w1=(0, 40), w4=(0, 40))))
    assert not threshold.nobody
    assert 0 < threshold.value < 1
    assert ((scores > threshold.value) == roles(40, w1=(0, 40), w4=(0, 40))).all()


@pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
def test_nobody_is_accused_for_uneven_credit_alone(alpha):
    """All submissions are alike; the policy has favourites, as GAA does, and they change."""
    random = np.random.default_rng(1)
    credits = np.repeat(random.dirichlet([alpha] * 10, 5), 40, axis=0)
    cosine = 0.3 + 0.1 * random.standard_normal((200, 10))
    norm = np.exp(0.2 * random.standard_normal((200, 10)))
    threshold, _ = calibrate(Trace(credits=credits, cosine=cosine, norm=norm))
    assert threshold.nobody


def test_the_window_follows_the_roles():
    random = np.random.default_rng(0)
    changing = random.uniform(size=(200, 6)) < 0.3
    assert calibrate(trusting(changing))[0].window == 1
    byzantine = roles(200, w0=(0, 200), w1=(0, 200))
    assert calibrate(trusting(byzantine))[0].window == 1  # the shortest of those that do as well
    cosine = np.where(byzantine, -0.4, 0.4) + 0.25 * random.standard_normal((200, 6))
    noisy = Trace(credits=np.full((200, 6), [0, 0, 0.25, 0.25, 0.25, 0.25]), cosine=cosine.clip(-1, 1))
    assert calibrate(noisy)[0].window == 9
