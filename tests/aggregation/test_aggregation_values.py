"""Results worked out by hand."""

import pytest
import torch

from byzgym import aggregation

LINE = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]])


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("mean", {}, 21.4),
        ("median", {"num_byzantine": 2}, 2.0),
        ("trimmed_mean", {"num_byzantine": 1}, 7 / 3),
        ("trimmed_mean", {"num_byzantine": 2}, 2.0),
        ("mean_around_median", {"num_byzantine": 1}, 7 / 4),
        # 0 and 4 are equally far from 2: the smaller one counts.
        ("mean_around_median", {"num_byzantine": 2}, 1.0),
        # Scores with n - f - 2 = 2 neighbours: 1+4, 1+1, 1+4, 4+9, 9216+9604.
        ("krum", {"num_byzantine": 1}, 1.0),
        ("multi_krum", {"num_byzantine": 1}, 7 / 4),
        ("multi_krum", {"num_byzantine": 1, "num_selected": 2}, 0.5),
        # Sums of distances: 107, 104, 103, 105, 393.
        ("medoid", {"num_byzantine": 2}, 2.0),
        ("geometric_median", {"num_byzantine": 2}, 2.0),
        # The farthest from 21.4 is 100; from the mean 1.75 of the rest it is 4.
        ("faba", {"num_byzantine": 1}, 7 / 4),
        ("faba", {"num_byzantine": 2}, 1.0),
        ("brute_force", {"num_byzantine": 1}, 7 / 4),
        ("brute_force", {"num_byzantine": 2}, 1.0),
        ("bulyan", {"num_byzantine": 0}, 21.4),
        ("norm_clipping", {"max_norm": 2.0}, 7 / 5),
        ("norm_clipping", {"max_norm": 3.0}, 9 / 5),
    ],
)
def test_on_a_line(name, parameters, expected):
    torch.testing.assert_close(aggregation.make(name, **parameters)(LINE), torch.tensor([expected]))


def test_bulyan_on_a_line():
    # theta = 5 picks by Krum. Seven left, 4 neighbours: 3 scores 4+1+1+4 = 10, the least. Without it, six
    # left, 3 neighbours: 1 scores 1+1+9, 2 scores 1+4+4 and 4 scores 1+4+9: pick 2. Five left, 2 neighbours:
    # 0, 1, 4, 5, 50: 1 scores 1+9, 4 scores 1+9, 5 scores 1+16, 0 scores 1+16: pick 1, the first. Four left,
    # one neighbour: 0, 4, 5, 50: 4 and 5 score 1: pick 4. Three left: 0, 5, 50: 0 and 5 score 25: pick 0.
    # Of 0, 1, 2, 3, 4 the three nearest to 2 have the mean 2.
    rows = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [50.0]])
    torch.testing.assert_close(aggregation.make("bulyan", num_byzantine=1)(rows), torch.tensor([2.0]))


def test_even_median_is_the_midpoint():
    rows = torch.tensor([[1.0, -2.0], [7.0, 0.0], [2.0, 5.0], [4.0, 1.0]])
    torch.testing.assert_close(aggregation.make("median")(rows), torch.tensor([3.0, 0.5]))


def test_median_is_outside_the_hull():
    assert torch.equal(aggregation.make("median")(torch.eye(3)), torch.zeros(3))


def test_krum_takes_the_first_of_equals():
    # A square and its centre twice: both centres score the same.
    rows = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, -1.0], [0.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
    credits = aggregation.make("krum", num_byzantine=1).credits(rows)
    assert credits.tolist() == [0, 1, 0, 0, 0, 0]


def test_geometric_median_of_a_square_is_its_centre():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for scale in (1e-30, 1e-10, 1.0, 1e30):
        rule = aggregation.make("geometric_median")
        assert rule(rows * scale).abs().max() <= 2e-6 * scale
        torch.testing.assert_close(rule.credits(rows * scale), torch.full((4,), 0.25))


def test_geometric_median_of_small_gradients_is_not_the_mean():
    # Four points in convex position: the optimum is where the diagonals cross. With a smoothing of 0.1, as
    # some libraries add it whatever the scale, it would be the mean.
    rows = torch.tensor([[0.0, 0.0], [1e-3, 0.0], [0.0, 1e-3], [1e-2, 1e-2]])
    result = aggregation.make("geometric_median")(rows)
    torch.testing.assert_close(result, torch.tensor([5e-4, 5e-4]), rtol=1e-3, atol=0)


def test_trimmed_mean_does_not_subtract():
    rows = torch.tensor([[0.1], [0.2], [0.3], [1e9], [-5.0]])
    result = aggregation.make("trimmed_mean", num_byzantine=1)(rows)
    torch.testing.assert_close(result, torch.tensor([0.2]), rtol=1e-6, atol=0)
