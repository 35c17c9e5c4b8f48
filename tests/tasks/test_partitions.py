from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from byzgym.tasks import partitions

SPECS = ["iid", "dirichlet:alpha=0.01", "dirichlet:alpha=1e6", "shards", "shards:shards_per_worker=1"]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@st.composite
def cases(draw):
    num_workers = draw(st.integers(1, 12))
    labels = draw(st.lists(st.integers(0, 4), min_size=2 * num_workers, max_size=80))
    return torch.tensor(labels), num_workers, draw(st.integers(0, 2**32))


@pytest.mark.parametrize("spec", SPECS)
@given(case=cases())
def test_every_sample_belongs_to_one_worker(spec, case):
    labels, num_workers, seed = case
    partition = partitions.make_from(spec)
    indices, lengths = partition(labels, num_workers, seeded(seed))
    assert indices.dtype == lengths.dtype == torch.int64
    assert indices.shape == (num_workers, lengths.max())
    assert lengths.shape == (num_workers,)
    assert lengths.min() >= 1
    owned = [row[:length].tolist() for row, length in zip(indices, lengths.tolist(), strict=True)]
    assert sorted(chain.from_iterable(owned)) == list(range(len(labels)))
    for row, own in zip(indices.tolist(), owned, strict=True):
        assert row == (own * len(row))[: len(row)]
    again = partition(labels, num_workers, seeded(seed))
    assert torch.equal(indices, again[0])
    assert torch.equal(lengths, again[1])


@pytest.mark.parametrize("spec", SPECS)
def test_the_generator_is_all_the_randomness(spec, untouched_randomness):
    labels = torch.arange(300) % 10
    partition = partitions.make_from(spec)
    generator = seeded(0)
    first, second = partition(labels, 5, generator), partition(labels, 5, generator)
    assert first[0].tolist() != second[0].tolist()
    assert labels.tolist() == (torch.arange(300) % 10).tolist()


def test_iid_shares_are_random():
    counts = torch.zeros(3)
    for seed in range(600):
        indices, lengths = partitions.make("iid")(torch.zeros(14, dtype=torch.int64), 3, seeded(seed))
        assert lengths.tolist() == [5, 5, 4]
        counts += (indices == 0).any(1)
    assert counts.min() > 130  # sample 0 falls to each worker 171 to 214 times on average


@pytest.mark.parametrize("alpha", [0.1, 3.0])
def test_dirichlet_mean_and_variance(alpha):
    shares = partitions.make("dirichlet", alpha=alpha)._proportions(40_000, 4, seeded(0))
    torch.testing.assert_close(shares.sum(-1), torch.ones(40_000, dtype=torch.float64))
    variance = 0.25 * 0.75 / (4 * alpha + 1)
    assert (shares.mean(0) - 0.25).abs().max() < 0.01
    assert (shares.var(0) / variance - 1).abs().max() < 0.05


def test_tiny_alpha_gives_a_class_to_one_worker():
    shares = partitions.make("dirichlet", alpha=1e-6)._proportions(4000, 4, seeded(0))
    assert shares.isfinite().all()
    assert (shares.max(-1).values > 0.99).double().mean() > 0.99
    assert (shares.argmax(-1).bincount(minlength=4) - 1000).abs().max() < 150


def test_the_largest_worker_feeds_empty_ones():
    owner = torch.tensor([1, 1, 1, 1, 3, 3])
    partitions._feed_empty(owner, 4, seeded(0))
    assert owner.bincount().tolist() == [1, 2, 1, 2]
    assert owner[4:].tolist() == [3, 3]


def test_shards_have_few_labels_and_equal_sizes():
    labels = (torch.arange(200) % 10)[torch.randperm(200, generator=seeded(1))]
    indices, lengths = partitions.make("shards", shards_per_worker=2)(labels, 5, seeded(0))
    assert lengths.tolist() == [40] * 5
    for row in indices:
        assert labels[row].bincount().max() == 20
        assert len(labels[row].unique()) == 2


def test_shards_are_dealt_at_random():
    labels = torch.arange(100) // 10
    dealt = {
        tuple(labels[row].unique().tolist())
        for seed in range(20)
        for row in partitions.make("shards")(labels, 5, seeded(seed))[0]
    }
    assert len(dealt) > 20  # of the 45 pairs of labels


@pytest.mark.parametrize(
    ("spec", "count", "message"),
    [
        ("dirichlet:alpha=0", 2, "alpha must be .* greater than 0, got 0"),
        ("shards:shards_per_worker=0", 2, "shards_per_worker must be .* at least 1, got 0"),
        ("shard", 2, r"unknown partition 'shard'; did you mean 'shards'\? known: dirichlet, iid, shards"),
        ("iid", 6, "num_workers must be at most 5 for 5 training samples, got 6"),
        ("shards", 4, "num_workers must be at most 2 for 5 training samples and shards_per_worker=2, got 4"),
        ("iid", 0, "num_workers must be an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments(spec, count, message):
    with pytest.raises(ValueError, match=message):
        partitions.make_from(spec)(torch.zeros(5, dtype=torch.int64), count, seeded(0))
