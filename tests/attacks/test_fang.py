"""Fang's attacks against slow loops and against the rules that they attack."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attack_cases import gradients_like, mask_of, submit
from scipy import stats

from byzgym import aggregation


def ends_of(rows, b):
    """By the definition, one coordinate after the other: where the honest end is, and the far end."""
    near, far = [], []
    for column in rows.T:
        s = np.sign(column.mean())
        if s > 0:
            end = column.min()
            near.append(end)
            far.append(end / b if end > 0 else end * b)
        elif s < 0:
            end = column.max()
            near.append(end)
            far.append(end / b if end < 0 else end * b)
        else:
            near.append(0.0)
            far.append(0.0)
    return np.array(near), np.array(far)


@pytest.mark.parametrize("b", [1.0, 2.0, 5.0])
def test_trimmed_mean_numbers_are_uniform_beyond_the_honest_ones(b):
    gradients = gradients_like(2, 8, 4000)
    gradients[..., ::2] += (
        2.5 * gradients_like(1, 1, 2000, seed=5).sign()
    )  # no change of sign among honest rows
    gradients[..., 0] = 0
    mask = mask_of(8, [0, 4, 7], [1, 2, 3, 5, 6])
    submitted = submit("fang_trimmed_mean", gradients, mask, b=b).double().numpy()
    for env in range(2):
        near, far = ends_of(gradients[env].double().numpy()[~mask[env].numpy()], b)
        low, high = np.minimum(near, far), np.maximum(near, far)
        for worker in mask[env].nonzero()[:, 0].tolist():
            numbers = submitted[env, worker]
            slack = 1e-5 * np.abs(near)
            assert (numbers >= low - slack).all()
            assert (numbers <= high + slack).all()
            assert numbers[0] == 0
            if b > 1:
                share = (numbers - low)[1:] / (high - low)[1:]
                assert stats.kstest(share, stats.uniform.cdf).pvalue > 1e-3


def test_all_four_cases_by_hand():
    # Positive and negative means, with ends on both sides of zero.
    rows = [[1.0, -1.0, -4.0, 2.0], [3.0, 5.0, -2.0, -6.0], [0.0] * 4]
    submitted = submit("fang_trimmed_mean", torch.tensor([rows]), mask_of(3, [2]), b=2)[0, 2].tolist()
    for number, (low, high) in zip(submitted, [(0.5, 1), (-2, -1), (-2, -1), (2, 4)], strict=True):
        assert low <= number <= high


@pytest.mark.parametrize("name", ["trimmed_mean", "median"])
def test_coordinatewise_rules_are_pushed_back(name):
    gradients, mask = gradients_like(6, 10, 200) + 0.3, mask_of(10, *[[0, 3, 7]] * 6)
    rule = aggregation.make(name, num_byzantine=3)
    attacked = rule(submit("fang_trimmed_mean", gradients, mask))
    mean = gradients[:, [1, 2, 4, 5, 6, 8, 9]].mean(1)
    assert ((attacked - mean) * mean.sign() < 1e-6).float().mean() > 0.95
    assert ((attacked - mean) * mean.sign()).mean() < -0.3


def slow_krum_attack(rows, byzantine, halvings):
    """By the definition, for one environment: lambda, or None if Krum is never deceived."""
    n, d = rows.shape
    m = int(byzantine.sum())
    honest = [i for i in range(n) if not byzantine[i]]
    sums = []
    for i in honest:
        others = sorted(((rows[i] - rows[j]) ** 2).sum() for j in honest if j != i)
        sums.append(sum(others[: n - m - 2]))
    largest = max(np.linalg.norm(rows[i]) for i in honest)
    size = np.sqrt(min(sums) / ((n - 2 * m - 1) * d)) + largest / np.sqrt(d)
    signs = np.sign(sum(rows[i] for i in honest))
    for _ in range(halvings + 1):
        submitted = rows.copy()
        submitted[byzantine] = -size * signs
        if byzantine[slow_krum(submitted, m)]:
            return -size * signs
        size /= 2
    return None


def slow_krum(rows, m):
    scores = []
    for i in range(len(rows)):
        others = sorted(((rows[i] - rows[j]) ** 2).sum() for j in range(len(rows)) if j != i)
        scores.append(sum(others[: len(rows) - m - 2]))
    return int(np.argmin(scores))


@pytest.mark.parametrize("halvings", [0, 2, 20])
@pytest.mark.parametrize("dimension", [3, 200])
def test_krum_attack_against_loops(halvings, dimension):
    offsets = torch.linspace(0, 1.5, 12)[:, None, None]  # with a large mean, Krum cannot be deceived
    gradients = gradients_like(12, 11, dimension) + offsets
    mask = mask_of(11, *[[1, 4, 9, 10][: 1 + env % 4] for env in range(12)])
    submitted = submit("fang_krum", gradients, mask, halvings=halvings)
    spoiled = gradients.masked_fill(
        mask[..., None], torch.nan
    )  # what they would send themselves has no effect
    succeeded = 0
    for env in range(12):
        rows, byzantine = gradients[env].double().numpy(), mask[env].numpy()
        expected = slow_krum_attack(rows, byzantine, halvings)
        if expected is None:
            assert torch.equal(submitted[env], gradients[env])
            continue
        succeeded += 1
        alone = submit("fang_krum", spoiled[env : env + 1], mask[env : env + 1], halvings=halvings)
        torch.testing.assert_close(alone[0], submitted[env], rtol=1e-6, atol=0)
        for worker in mask[env].nonzero()[:, 0].tolist():
            np.testing.assert_allclose(submitted[env, worker], expected, rtol=1e-5, atol=1e-7)
        chosen = aggregation.make("krum", num_byzantine=int(mask[env].sum())).credits(submitted[env]).argmax()
        assert byzantine[chosen]
    assert halvings == 0 or 0 < succeeded < 12


def test_krum_attack_of_a_majority_succeeds_at_the_bound():
    gradients = torch.tensor([[[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]], [[3.0, 4.0], [1.0, 4.0], [0.0, 0.0]]])
    submitted = submit("fang_krum", gradients, mask_of(3, [1, 2], [0, 1, 2]))
    size = 5 / 2**0.5
    np.testing.assert_allclose(submitted[0, 1:], [[-size] * 2] * 2, rtol=1e-6)
    assert not submitted[1].any()  # nobody is honest


def test_coordinates_where_all_are_zero_stay_zero():
    gradients, mask = gradients_like(1, 9, 20), mask_of(9, [0, 1])
    gradients[..., :5] = 0
    for name in ("fang_krum", "fang_trimmed_mean"):
        assert not submit(name, gradients, mask)[..., :5].any()


def test_a_tie_does_not_deceive_krum():
    # With one neighbour, the Byzantine row and the honest one nearest to it have the same score.
    gradients, mask = torch.tensor([[[1.0], [-2.0], [3.0], [7.0]]]), mask_of(4, [3])
    assert torch.equal(submit("fang_krum", gradients, mask), gradients)
