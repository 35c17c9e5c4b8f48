"""What holds for every rule, or for all rules of a kind, on drawn inputs."""

import aggregation_reference as reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byzgym import aggregation

BUILT_IN = [name for name in aggregation.names() if not aggregation.make(name, num_byzantine=0).needs]
LINEAR = [name for name in BUILT_IN if aggregation.make(name, num_byzantine=0).linear]
# They compare with a fixed norm or length, or forget all lengths.
WITH_A_SCALE = {"norm_clipping", "rfa", "auto_gm", "sign_vote"}
# They look at norms, directions or signs.
ABOUT_ZERO = {"norm_clipping", "sign_vote", "cge", "signguard", "clipped_clustering", "flame"}
# The first worker is trusted; few steps do not get away from far outliers; one direction at a time is seen.
FOOLED = {"mean", "norm_clipping", "monna", "rfa", "dnc"}
every_rule = pytest.mark.parametrize("name", BUILT_IN)


def every_rule_but(exceptions):
    return pytest.mark.parametrize("name", [name for name in BUILT_IN if name not in exceptions])


every_linear_rule = pytest.mark.parametrize("name", LINEAR)
seeds = st.integers(0, 2**32 - 1)
counts = st.integers(3, 14)
families = st.sampled_from(reference.FAMILIES)


def build(name, n, portion=1.0):
    largest = aggregation.make_for(name, n, (n - 1) // 2).num_byzantine
    return aggregation.make(name, num_byzantine=int(largest * portion))


def assert_same(actual, expected, rows, rtol=1e-5):
    """Equal up to rounding at the size of the rows of this coordinate that may have entered."""
    assert torch.isfinite(actual).all()
    assert ((actual - expected).abs() <= rtol * rows.abs().amax(-2) + 1e-44).all()


def build_without_ties(name, n, portion):
    """A rule and a number of workers for which no two rows of a continuous distribution can tie.

    With one neighbour to count, two rows that are each other's nearest have the same Krum score.
    """
    if name == "krum":
        n = max(n, 4)
    if name == "bulyan":
        return aggregation.make(name, num_byzantine=3), n + 12
    return build(name, n, portion), n


def assert_same_outcome(name, first, second, rows, other_rows, rtol):
    """As `first` from `rows`, so `second` from `other_rows` once brought back to the former's units."""
    if name == "brute_force":  # several subsets can share the pair that is their diameter
        kept, other_kept = (x.nonzero()[:, 0] for x in (first, second))
        expected = reference.diameter(rows, kept)
        assert reference.diameter(other_rows, other_kept) == pytest.approx(expected, rel=rtol)
    else:
        assert_same(second, first, rows, rtol)


@every_rule_but({"monna"})
@settings(max_examples=15, deadline=None)
@given(seed=seeds, n=counts, d=st.integers(2, 40), portion=st.floats(0, 1))
def test_order_of_workers_does_not_matter(name, seed, n, d, portion):
    rule, n = build_without_ties(name, n, portion)
    if name == "foundation":  # in few dimensions two rows can be as far from the extremes
        d += 20
    rows = reference.draw("gaussian", n, d, seed, torch.float64)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    answer = rule.credits if name == "brute_force" else rule
    assert_same_outcome(name, answer(rows), answer(rows[order]), rows, rows[order], 1e-5)


@every_rule_but(WITH_A_SCALE)
@settings(max_examples=15, deadline=None)
@given(seed=seeds, n=counts, exponent=st.integers(-95, 95), portion=st.floats(0, 1))
def test_scale_equivariance(name, seed, n, exponent, portion):
    rule, n = build_without_ties(name, n, portion)
    rows = reference.draw("gaussian", n, 6, seed)
    scale = 2.0**exponent  # exact; from 1e-29 to 1e29
    if name == "brute_force":
        first, second = rule.credits(rows), rule.credits(rows * scale)
    else:
        first, second = rule(rows), rule(rows * scale) / scale
    assert_same_outcome(name, first, second, rows, rows, 1e-3 if name == "geometric_median" else 1e-5)


@every_rule_but(ABOUT_ZERO)
@settings(max_examples=15, deadline=None)
@given(seed=seeds, n=st.integers(9, 14))
def test_translation_equivariance(name, seed, n):
    rows = reference.draw("gaussian", n, 6, seed, torch.float64)
    shift = 3 * torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rule = aggregation.make(name, num_byzantine=0 if name == "bulyan" else 1)
    assert_same(rule(rows + shift), rule(rows) + shift, rows + shift, rtol=1e-5)


@every_rule
@settings(max_examples=8, deadline=None)
@given(seed=seeds, n=counts, d=st.integers(1, 30), portion=st.floats(0, 1))
def test_a_batch_is_a_loop(name, seed, n, d, portion):
    runs = torch.stack([reference.draw(f, n, d, seed, torch.float64) for f in reference.FAMILIES[:6]])
    rule = build(name, n, portion)
    together = rule(runs.reshape(2, 3, n, d))
    assert together.shape == (2, 3, d)
    for run, result in zip(runs, together.reshape(6, d), strict=True):
        assert_same(result, rule(run), run, rtol=1e-6)


@every_linear_rule
@settings(max_examples=15, deadline=None)
@given(seed=seeds, n=counts, d=st.integers(1, 30), family=families, portion=st.floats(0, 1))
def test_credits_are_convex_and_aggregate(name, seed, n, d, family, portion):
    rows = reference.draw(family, n, d, seed)
    rule = build(name, n, portion)
    credits = rule.credits(rows)
    assert credits.shape == (n,)
    assert credits.dtype == rows.dtype
    assert (credits >= 0).all()
    torch.testing.assert_close(credits.sum(), torch.tensor(1.0))
    assert_same(rule(rows), (credits.double() @ rows.double()).float(), rows)


@every_rule_but({"norm_clipping", "sign_vote", "flame"})  # flame adds noise
@settings(max_examples=15, deadline=None)
@given(seed=seeds, n=counts, exponent=st.integers(-30, 30), portion=st.floats(0, 1))
def test_equal_rows_give_that_row(name, seed, n, exponent, portion):
    row = reference.draw("gaussian", 1, 20, seed) * (0 if exponent == 0 else 10.0**exponent)
    torch.testing.assert_close(build(name, n, portion)(row.expand(n, -1)), row[0], rtol=2e-6, atol=0)


@every_rule
@settings(max_examples=15, deadline=None)
@given(seed=seeds, n=st.integers(7, 14), family=families, rejected=st.integers(0, 3))
def test_the_input_is_left_alone(name, seed, n, family, rejected):
    rows = reference.draw(family, n, 9, seed)
    rows[:rejected, 3] = torch.nan
    before = rows.clone()
    build(name, n)(rows)
    torch.testing.assert_close(rows, before, rtol=0, atol=0, equal_nan=True)


@every_rule_but(FOOLED | {"foundation"})
@settings(max_examples=15, deadline=None)
@given(seed=seeds, n=st.integers(7, 16), exponent=st.integers(3, 30))
def test_outliers_do_not_get_through(name, seed, n, exponent):
    rows = reference.draw("gaussian", n, 8, seed)
    rule = build(name, n)
    rows[: rule.num_byzantine] *= 10.0**exponent
    honest = rows[rule.num_byzantine :]
    assert (rule(rows).norm() <= 8 * honest.norm(dim=-1).max()).all()
