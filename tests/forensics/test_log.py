import math

import numpy as np
import pytest
import torch

from byzgym.aggregation import Decision, ServerView
from byzgym.forensics import Log


def view_of(gradients, **others):
    gradients = torch.as_tensor(gradients)
    return ServerView(gradients, torch.zeros(len(gradients), gradients.shape[2]), 0.1, None, **others)


def test_what_it_keeps_by_hand():
    log = Log()
    first = view_of([[[3.0, 4.0], [math.nan, 1.0]]])
    log.add(first, Decision.from_credits(torch.tensor([[1.0, 0.0]]), first))
    second = view_of([[[0.0, 2.0], [-3.0, -4.0]]])
    log.add(second, Decision(torch.tensor([[0.0, 1.0]])))
    trace = log.trace()
    np.testing.assert_allclose(trace.credits, [[1, 0], [np.nan, np.nan]])
    np.testing.assert_allclose(trace.norm, [[5, np.nan], [2, 5]])
    # The only update before round 1 is (3, 4).
    np.testing.assert_allclose(trace.cosine, [[np.nan, np.nan], [0.8, -1]], rtol=1e-6)
    assert trace.rejected.tolist() == [[False, True], [False, False]]
    assert trace.update_norm.tolist() == [5, 1]
    assert np.isnan(trace.qv_loss).all()
    assert trace.round.tolist() == [0, 1]


def test_the_mean_of_past_updates_forgets():
    log = Log()
    for update in ([1.0, 0.0], [0.0, 1.0], [0.0, 0.0]):
        log.add(view_of([[[1.0, 0.0]]]), Decision(torch.tensor([update])))
    # After two rounds it is (0.09, 0.1).
    assert log.trace().cosine[2, 0] == pytest.approx(0.09 / math.hypot(0.09, 0.1))


def test_qv_loss_is_noted():
    gradients, theta = torch.ones(2, 3, 4), torch.tensor([[1.0] * 4, [2.0] * 4])
    log = Log()
    log.add(ServerView(gradients, theta, 0.1, lambda theta: theta.sum(1)), Decision(torch.ones(2, 4)))
    assert [log.trace(run).qv_loss.item() for run in range(2)] == [4, 8]


def test_memory_is_bounded():
    log = Log(rounds=3)
    for number in range(5):
        log.add(view_of([[[float(number), 1.0]] * 2]), Decision(torch.ones(1, 2)))
    trace = log.trace()
    assert trace.round.tolist() == [2, 3, 4]
    np.testing.assert_allclose(trace.norm[:, 0], np.hypot([2, 3, 4], 1), rtol=1e-6)
    assert log.trace(last=1).round.tolist() == [4]
    assert log.num_rounds == 5


def test_it_keeps_copies_and_writes_into_nothing():
    view = view_of(torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0)))
    decision = Decision.from_credits(torch.full((1, 4), 0.25), view)
    before = view.gradients.clone()
    log = Log()
    log.add(view, decision)
    assert torch.equal(view.gradients, before)
    kept = log.trace().credits.copy()
    decision.credits.zero_()
    assert (log.trace().credits == kept).all()


def test_runs_of_a_batch_equal_single_ones():
    generator = torch.Generator().manual_seed(0)
    batch, single = Log(), Log()
    for _ in range(4):
        gradients = torch.randn(3, 5, 7, generator=generator)
        update = gradients.mean(1)
        batch.add(view_of(gradients), Decision(update))
        single.add(view_of(gradients[1:2]), Decision(update[1:2]))
    for name in ("cosine", "norm", "copy_of", "update_norm"):
        np.testing.assert_allclose(getattr(batch.trace(1), name), getattr(single.trace(), name), rtol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_tiny_and_huge_gradients(size):
    log = Log()
    for _ in range(2):
        view = view_of(torch.tensor([[[1.0, 0.0], [0.6, 0.8], [-1.0, 0.1]]]) * size)
        log.add(view, Decision(view.gradients[:, 0]))
    np.testing.assert_allclose(log.trace().cosine[1], [1, 0.6, -0.995037], rtol=1e-5)


def test_an_update_that_explodes_is_forgotten():
    log = Log()
    for update in ([1.0, 0.0], [math.inf, 0.0], [1.0, 0.0]):
        log.add(view_of([[[1.0, 0.0]]]), Decision(torch.tensor([update])))
    assert log.trace().cosine[2, 0] == 1


def test_mistakes_change_nothing():
    log = Log()
    with pytest.raises(ValueError, match="the log is empty"):
        log.trace()
    view = view_of(torch.ones(1, 3, 2))
    with pytest.raises(ValueError, match="update must have shape"):
        log.add(view, Decision(torch.ones(1, 3)))
    with pytest.raises(ValueError, match="credits must have shape"):
        log.add(view, Decision(torch.ones(1, 2), torch.full((1, 2), 0.5)))
    log.add(view, Decision(torch.ones(1, 2)))
    with pytest.raises(ValueError, match=r"as in the rounds before, got \(1, 2, 4\); .* reset"):
        log.add(view_of(torch.ones(1, 4, 2)), Decision(torch.ones(1, 2)))
    with pytest.raises(ValueError, match="run must be an integer from 0 to 0, got 1"):
        log.trace(1)
    with pytest.raises(ValueError, match="last"):
        log.trace(last=0)
    with pytest.raises(ValueError, match="rounds must be an integer of at least 1"):
        Log(rounds=0)
    assert log.trace().num_rounds == 1
    log.reset()
    log.add(view_of(torch.ones(2, 4, 2)), Decision(torch.ones(2, 2)))
    assert log.trace(1).num_workers == 4
