"""Which samples workers draw."""

import pytest
import torch
from simulation_cases import make

from byzgym import tasks
from byzgym.simulation.batches import BatchSampler, checked_shares


def sampler_for(*shares):
    """One environment for each pair (shares, lengths)."""
    sampler = BatchSampler(len(shares), 2, 8, torch.device("cpu"))
    for env, (numbers, lengths) in enumerate(shares):
        sampler.assign(env, torch.tensor(numbers), torch.tensor(lengths))
    return sampler


def generators(count):
    return [torch.Generator().manual_seed(env) for env in range(count)]


FIRST = ([[0, 1, 2, 3], [4, 5, 0, 0]], [4, 2])
SECOND = ([[7, 7, 7, 7, 8], [9, 9, 9, 9, 9]], [5, 1])  # wider than the first


def test_workers_draw_from_all_of_their_share_only():
    sampler, drawing = sampler_for(FIRST, SECOND), generators(2)
    drawn = torch.cat(
        [
            sampler.draw(torch.arange(2), torch.tensor([number, number]), drawing).clone()
            for number in range(3 * sampler.CHUNK)
        ],
        2,
    )
    found = [[set(worker.tolist()) for worker in env] for env in drawn]
    assert found == [[{0, 1, 2, 3}, {4, 5}], [{7, 8}, {9}]]


def test_draws_do_not_depend_on_other_environments():
    sampler, drawing = sampler_for(FIRST, FIRST), generators(2)
    alone, own = sampler_for(FIRST), generators(2)[1:]
    for number in range(40):  # environment 0 plays every third round only
        envs = [0, 1] if number % 3 == 0 else [1]
        rounds = torch.tensor([number // 3, number][-len(envs) :])
        drawn = sampler.draw(torch.tensor(envs), rounds, drawing)[-1]
        assert torch.equal(drawn, alone.draw(torch.tensor([0]), torch.tensor([number]), own)[0])


LENGTHS = torch.tensor([1, 2])
LAST = torch.tensor([[0, 0], [3, 9]])


def test_the_last_sample_may_be_shared_out():
    assert checked_shares("mine", (LAST, LENGTHS), 2, 10)[0] is LAST


@pytest.mark.parametrize(
    "result",
    [
        None,
        LAST,
        (LAST + 1, LENGTHS),
        (LAST - 1, LENGTHS),
        (LAST, LENGTHS - 1),
        (LAST, LENGTHS + 1),
        (LAST.float(), LENGTHS),
        (LAST[:1], LENGTHS),
        (LAST.numpy(), LENGTHS.numpy()),
    ],
    ids=["none", "tensor", "number", "negative", "no_sample", "length", "type", "shape", "numpy"],
)
def test_a_partition_must_divide_the_data(result):
    with pytest.raises(ValueError, match=r"partition .*mine.* int64 of shape \(2, m\) from 0 to 9"):
        checked_shares("mine", result, 2, 10)


def test_labels_given_to_a_partition_are_a_copy():
    def partition(labels, num_workers, generator):
        labels.zero_()
        return torch.arange(6).view(6, 1), torch.ones(6, dtype=torch.int64)

    tasks.partitions.register("test_writing", lambda: partition)
    assert torch.equal(
        make(partition="test_writing").setup.task.train[1], tasks.make("synthetic").train[1]
    )
