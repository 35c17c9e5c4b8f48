"""Which samples workers draw."""

import pytest
import torch
from simulation_cases import make

from byzgym import tasks
from byzgym.simulation.batches import BatchSampler, checked_shares


def sampler_for(*shares):
    """One environment for each pair (shares, lengths)."""
    sampler = BatchSampler(len(shares), 2, 2, 8, torch.device("cpu"))
    for env, (numbers, lengths) in enumerate(shares):
        sampler.assign(env, torch.tensor(numbers), torch.tensor(lengths))
    return sampler


FIRST = ([[0, 1, 2, 3], [4, 5, 0, 0]], [4, 2])
SECOND = ([[7, 7, 7, 7, 8], [9, 9, 9, 9, 9]], [5, 1])  # wider than the first


def test_workers_draw_from_all_of_their_share():
    sampler, drawing = sampler_for(FIRST, SECOND), [torch.Generator(), torch.Generator()]
    rounds = torch.arange(3 * sampler.CHUNK)[:, None].expand(-1, 2)
    drawn = torch.cat([sampler.draw(torch.arange(2), number, drawing)[1] for number in rounds], 2)
    found = [[set(worker.tolist()) for worker in env] for env in drawn]
    assert found == [[{0, 1, 2, 3}, {4, 5}], [{7, 8}, {9}]]


LENGTHS = torch.tensor([1, 2])
LAST = torch.tensor([[0, 0], [3, 9]])


@pytest.mark.parametrize(
    "result",
    [
        None,
        LAST,
        *((shares, LENGTHS) for shares in (LAST + 1, LAST - 1, LAST.float(), LAST[:1], LAST.numpy())),
        *((LAST, lengths) for lengths in (LENGTHS - 1, LENGTHS + 1, LENGTHS.float(), LENGTHS[:1])),
    ],
)
def test_a_partition_must_divide_the_data(result):
    assert checked_shares("mine", (LAST, LENGTHS), 2, 10)[0] is LAST
    with pytest.raises(ValueError, match=r"partition .*mine.* int64 of shape \(2, m\) from 0 to 9"):
        checked_shares("mine", result, 2, 10)


def test_labels_given_to_a_partition_are_a_copy():
    def partition(labels, num_workers, generator):
        labels.zero_()
        return torch.arange(6).view(6, 1), torch.ones(6, dtype=torch.int64)

    labels = make(partition=partition).setup.task.train[1]
    assert torch.equal(labels, tasks.make("synthetic").train[1])


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, "NoneType"),
        ((), r"0 values \(\)"),
        ((torch.tensor([[0, 9]]), [1]), r"2 values \(int64 of shape \(1, 2\) from 0 to 9, list\)"),
        (torch.tensor([0.5]), r"float32 of shape \(1,\) from 0.5 to 0.5"),
        (torch.zeros(0, 2), r"float32 of shape \(0, 2\)"),
        (torch.ones(2, dtype=torch.complex64), r"complex64 of shape \(2,\)"),
    ],
)
def test_errors_say_what_a_partition_has_returned(result, text):
    with pytest.raises(ValueError, match=f"1 to m, got {text}$"):
        checked_shares("mine", result, 2, 10)
