"""Safeguard: by hand, against a slow reference, and its windows."""

import aggregation_reference as reference
import numpy as np
import pytest
import torch
from server_views import normal, view_of

from byzgym.aggregation import make
from byzgym.memory import Memory


class SlowSafeguard:
    """One run, with lists."""

    def __init__(self, n, windows, thresholds, restore):
        self.n, self.windows, self.thresholds, self.restore = n, windows, thresholds, restore
        self.good, self.round = list(range(n)), 0
        self.sums = [None, None]

    def decide(self, rows):
        if self.restore and self.round % self.windows[1] == 0:
            self.good = list(range(self.n))
        far = set()
        for number in range(2):
            if self.round % self.windows[number] == 0:
                self.sums[number] = np.zeros_like(rows)
            self.sums[number] = self.sums[number] + rows / len(self.good)
            far |= self.far(self.sums[number], self.thresholds and self.thresholds[number])
        credits = [1 / len(self.good) if i in self.good else 0.0 for i in range(self.n)]
        self.good = [i for i in self.good if i not in far] or self.good
        self.round += 1
        return credits

    def far(self, sums, threshold):
        between = reference.distances(sums)
        majority = min(self.n // 2 + 1, len(self.good))
        within = {i: sorted(between[i, j] for j in self.good)[majority - 1] for i in self.good}
        median = min(self.good, key=lambda i: within[i])
        limit = 2 * (threshold or within[median])
        return {i for i in self.good if between[median, i] > limit}


@pytest.mark.parametrize(
    "family", ["gaussian", "equal_rows", "row_magnitudes", "far_cluster", "offset", "zeros"]
)
@pytest.mark.parametrize("n", [1, 2, 3, 10, 11])
@pytest.mark.parametrize("thresholds", [None, (1.0, 2.0)])
@pytest.mark.parametrize("restore", [False, True])
def test_against_reference(family, n, thresholds, restore):
    options = {"windows": (2, 5), "thresholds": thresholds, "restore": restore}
    memory, rule = Memory(2), make("safeguard", **options)
    slow = [SlowSafeguard(n, **options) for _ in range(2)]
    for number in range(12):
        runs = torch.stack([reference.draw(family, n, 6, 9 * number + e, torch.float64) for e in range(2)])
        credits = rule.credits(view_of(runs, memory=memory))
        for env in range(2):
            np.testing.assert_allclose(credits[env], slow[env].decide(runs[env].numpy()))


def rounds(rule, sequence):
    """Who gets credit in each round, for submissions [rounds][n]."""
    memory = Memory(1)
    views = [view_of(torch.tensor([values])[..., None], memory=memory) for values in sequence]
    return [rule.credits(view)[0].nonzero()[:, 0].tolist() for view in views]


def test_who_drifts_slowly_is_found_by_the_long_window_alone():
    # A round adds 2.1 / 5 to the distance of the last one, which the long window finds above 2 in the fifth.
    sequence = [[0.0, 0.1, -0.1, 0.0, 2.1]] * 12
    both = make("safeguard", windows=(1, 10), thresholds=[1.0, 1.0])
    assert rounds(both, sequence) == [[0, 1, 2, 3, 4]] * 5 + [[0, 1, 2, 3]] * 7
    short = make("safeguard", windows=(1, 1), thresholds=[1.0, 1.0])
    assert rounds(short, sequence) == [[0, 1, 2, 3, 4]] * 12


def test_who_was_found_out_stays_out_unless_restored():
    sequence = [[0.0, 0.1, -0.1, 0.0, 90.0]] + [[0.0, 0.1, -0.1, 0.0, 0.0]] * 4
    everybody, honest = [0, 1, 2, 3, 4], [0, 1, 2, 3]
    for restore, expected in [(False, honest), (True, everybody)]:
        rule = make("safeguard", windows=(1, 3), restore=restore, thresholds=[1.0, 1.0])
        assert rounds(rule, sequence)[:3] == [everybody, honest, honest]
        assert rounds(rule, sequence)[3] == expected


def test_all_stay_where_nobody_would():
    # In the second round, the short window holds 0, 1, 2.05 and keeps the first alone; the long one holds
    # -.2, 1, 1.85 (all divided by 3) and keeps the second alone.
    rule = make("safeguard", windows=(1, 2), thresholds=[0.1, 0.1])
    sequence = [[-0.2, 0.0, -0.2], [0.0, 1.0, 2.05], [0.0, 0.0, 0.0]]
    assert rounds(rule, sequence) == [[0, 1, 2]] * 3


def test_an_episode_begins_with_everybody():
    memory, rule = Memory(2), make("safeguard")
    spoiled = torch.tensor([[1.0, 1.1, 0.9, 50.0]]).expand(2, 4)[..., None]
    rule.credits(view_of(spoiled, memory=memory))
    memory.reset([1])
    credits = rule.credits(view_of(spoiled, memory=memory))
    assert [int(row.count_nonzero()) for row in credits] == [3, 4]


def test_rejected_submissions_get_nothing_and_their_share_goes_to_good_workers_only():
    memory, rule = Memory(1), make("safeguard")
    rule.credits(view_of(torch.tensor([[[1.0], [1.1], [0.9], [50.0]]]), memory=memory))
    gradients = torch.tensor([[[torch.nan], [1.1], [0.9], [1.0]]])
    credits = rule.credits(view_of(gradients, memory=memory))
    assert credits.tolist() == [[0, 0.5, 0.5, 0]]


def test_attackers_that_flip_signs_are_found_and_honest_workers_are_not():
    memory, rule = Memory(1), make("safeguard", num_byzantine=3)
    for number in range(15):
        gradients = 1 + normal(1, 9, 100, seed=number, dtype=torch.float32)
        gradients[:, :3] *= -1
        credits = rule.credits(view_of(gradients, memory=memory))
    assert credits[0].nonzero()[:, 0].tolist() == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"windows": 5}, "windows must be two numbers, got 5"),
        ({"windows": (0, 5)}, r"windows\[0\] must be an integer of at least 1"),
        ({"windows": (6, 5)}, r"windows\[1\] must be an integer of at least 6"),
        ({"windows": (1.5, 5)}, r"windows\[0\] must be an integer of at least 1"),
        ({"thresholds": (1.0,)}, "thresholds must be two numbers"),
        ({"thresholds": (1.0, 0.0)}, r"thresholds\[1\] must be a finite number greater than 0"),
        ({"restore": 1}, "restore must be True or False"),
    ],
)
def test_parameters_are_checked(parameters, problem):
    with pytest.raises(ValueError, match=problem):
        make("safeguard", num_byzantine=0, **parameters)


def test_it_needs_an_honest_majority():
    with pytest.raises(ValueError, match=r"Safeguard needs n >= 2f \+ 1"):
        make("safeguard", num_byzantine=2).decide(view_of(torch.ones(1, 4, 1), memory=Memory(1)))
