"""Evidence on workers: by hand, and how often it is counted."""

import pytest
import torch

from byzgym.aggregation import ServerView, reputation
from byzgym.aggregation.evidence import pass_on, running_mean
from byzgym.memory import Memory


def view_of(gradients, memory, **fields):
    """A view whose QV gradient is (1, 0)."""
    theta = torch.zeros(len(gradients), 2)
    return ServerView(gradients, theta, 0.1, lambda theta: theta[:, 0], memory=memory, **fields)


def test_agreement_is_passed_on_by_similarity_and_against_its_sign():
    similarity = torch.tensor([[1.0, 0.5, -0.5], [0.5, 1.0, 0.0], [-0.5, 0.0, 1.0]])
    passed = pass_on(torch.tensor([1.0, 0.2, -1.0]), similarity)
    torch.testing.assert_close(passed, torch.tensor([1.6 / 2, 0.7 / 1.5, -1.5 / 1.5]))
    assert pass_on(torch.ones(2, 3), torch.zeros(2, 3, 3)).tolist() == [[0] * 3] * 2


def test_a_running_mean_by_hand():
    memory = Memory(num_envs=2)
    gradients = torch.ones(2, 1, 2)
    means = [
        running_mean(view_of(gradients, memory), "mine", torch.tensor([[value], [-value]]), 0.25)[:, 0]
        for value in (1.0, 2.0, 4.0)
    ]
    weights = 0.75**2, 0.75, 1.0
    third = (weights[0] * 1 + weights[1] * 2 + weights[2] * 4) / sum(weights)
    for mean, expected in zip(means, (1.0, (0.75 * 1 + 2) / 1.75, third), strict=True):
        assert mean.tolist() == pytest.approx([expected, -expected])


def test_reputation_by_hand():
    """Cosines with the QV gradient are 1, 0.6 and -1, between the submissions 0.6, -1 and -0.6."""
    gradients = torch.tensor([[[2.0, 0.0], [0.6, 0.8], [-3.0, 0.0]]])
    expected = [(1 + 0.36 + 1) / 2.6, (0.6 + 0.6 + 0.6) / 2.2, (-1 - 0.36 - 1) / 2.6]
    assert reputation(view_of(gradients, Memory(1)))[0].tolist() == pytest.approx(expected)


def test_submissions_may_be_of_another_type_than_the_parameters():
    gradients = torch.tensor([[[2.0, 0.0], [0.6, 0.8], [-3.0, 0.0]]])
    expected = [(1 + 0.36 + 1) / 2.6, (0.6 + 0.6 + 0.6) / 2.2, (-1 - 0.36 - 1) / 2.6]
    for dtype, tolerance in ((torch.bfloat16, 0.02), (torch.float64, 1e-6)):
        memory = Memory(1)
        view = ServerView(gradients.to(dtype), torch.zeros(1, 2), 0.1, lambda t: t[:, 0], memory=memory)
        assert reputation(view)[0].tolist() == pytest.approx(expected, abs=tolerance)


def test_the_mean_moves_once_a_round_and_views_without_a_round_are_counted():
    memory, generator = Memory(1), torch.Generator().manual_seed(0)
    first = view_of(torch.randn(1, 4, 2, generator=generator), memory)
    assert first.round.tolist() == [0]
    once = reputation(first)
    assert torch.equal(reputation(first), once)
    second = view_of(torch.randn(1, 4, 2, generator=generator), memory)
    assert second.round.tolist() == [1]
    assert not torch.equal(reputation(second), once)


def test_it_needs_a_memory():
    with pytest.raises(ValueError, match=r"build every ServerView with the same Memory\(num_envs\)"):
        reputation(view_of(torch.ones(1, 3, 2), None))
