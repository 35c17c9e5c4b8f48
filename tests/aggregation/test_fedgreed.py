"""FedGreed: by hand, and against a slow reference."""

import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import every_family
from server_views import normal, slow_loss, view_of

from byzgym.aggregation import ServerView, make


def slow_fedgreed(rows, target):
    """The workers that are averaged, best first."""
    order = sorted(range(len(rows)), key=lambda i: slow_loss(rows[i], target))
    taken, previous, least = [], np.inf, np.inf
    for k in range(1, len(rows) + 1):
        loss = slow_loss(rows[order[:k]].mean(0), target)
        if loss > previous:
            break
        if loss < least:
            taken, least = order[:k], loss
        previous = loss
    return taken


@every_family
@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_against_reference(family, n):
    runs = torch.stack([reference.draw(family, n, 7, seed, torch.float64) for seed in range(4)])
    target = normal(4, 7, seed=9)
    credits = make("fedgreed").credits(view_of(runs, target))
    for rows, aim, given_ in zip(runs.numpy(), target.numpy(), credits, strict=True):
        expected, taken = slow_fedgreed(rows, aim), reference.chosen(given_)
        if sorted(expected) != taken:  # equal losses, apart from rounding
            ours, theirs = (slow_loss(rows[part].mean(0), aim) for part in (taken, expected))
            assert ours == pytest.approx(theirs, rel=1e-9)


def test_it_stops_before_the_loss_rises_though_it_would_fall_later():
    # Steps of 1, 0.4 and 2 towards a minimum at 1.2: losses .04, .64, .64 alone; of the means of one, two and
    # three 1 (.04), .7 (.25), 1.13 (.004).
    gradients = torch.tensor([[[10.0], [4.0], [20.0]]])
    credits = make("fedgreed").credits(view_of(gradients, torch.tensor([[-1.2]])))
    assert credits.tolist() == [[1, 0, 0]]


def test_equal_losses_go_on_but_do_not_count():
    view = ServerView(torch.ones(1, 3, 1), torch.zeros(1, 1), 0.1, lambda theta: 0 * theta[:, 0])
    assert make("fedgreed").credits(view).tolist() == [[1, 0, 0]]


def test_the_best_is_taken_even_if_it_is_bad_and_rejected_ones_never():
    gradients = torch.tensor([[[torch.nan], [-1.0], [-3.0]]])
    credits = make("fedgreed").credits(view_of(gradients, torch.tensor([[-1.0]])))
    assert credits.tolist() == [[0, 1, 0]]
    nobody = make("fedgreed").decide(view_of(gradients * torch.nan, torch.tensor([[-1.0]])))
    assert not nobody.credits.any()
    assert not nobody.update.any()
