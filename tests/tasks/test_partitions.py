from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from byzgym.tasks import partitions

SPECS = [
    *("iid", "dirichlet:alpha=0.01", "dirichlet:alpha=1e6", "shards", "shards:shards_per_worker=1"),
    *("by_column:region", "quantity_skew:alpha=0.01", "quantity_skew:alpha=1e6"),
]


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
    shares = partitions._proportions(alpha, 40_000, 4, seeded(0))
    torch.testing.assert_close(shares.sum(-1), torch.ones(40_000, dtype=torch.float64))
    variance = 0.25 * 0.75 / (4 * alpha + 1)
    assert (shares.mean(0) - 0.25).abs().max() < 0.01
    assert (shares.var(0) / variance - 1).abs().max() < 0.05


def test_tiny_alpha_gives_a_class_to_one_worker():
    shares = partitions._proportions(1e-6, 4000, 4, seeded(0))
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


@pytest.mark.parametrize("alpha", [1e-308, 1e-20, 1e-3, 1e20, 1e300])
def test_proportions_exist_for_any_alpha(alpha):
    shares = partitions._proportions(alpha, 100, 5, seeded(0))
    torch.testing.assert_close(shares.sum(-1), torch.ones(100, dtype=torch.float64))
    assert (shares.max(-1).values > 0.99).all() or (shares - 0.2).abs().max() < 1e-6 or alpha == 1e-3


@pytest.mark.parametrize("spec", ["dirichlet:alpha=0.01", "quantity_skew:alpha=0.01", "by_column:region"])
def test_many_workers_are_all_fed(spec):
    labels = torch.arange(6000) % 10
    _, lengths = partitions.make_from(spec)(labels, 2000, seeded(0))
    assert lengths.min() >= 1
    assert lengths.sum() == 6000


def test_quantities_are_skewed_and_labels_are_not():
    labels = torch.arange(20_000) % 2
    spread = {}
    for alpha in (0.3, 30.0):
        counts = []
        for seed in range(20):
            indices, lengths = partitions.make("quantity_skew", alpha=alpha)(labels, 5, seeded(seed))
            counts.append(lengths.double())
            rows = zip(indices, lengths.tolist(), strict=True)
            shares = [labels[row[:length]].double().mean() for row, length in rows if length > 500]
            assert all(abs(share - 0.5) < 0.1 for share in shares)
        spread[alpha] = (torch.stack(counts) / 20_000).var(unbiased=False)
    # The variance of a Dirichlet proportion with five parts.
    assert spread[0.3].item() == pytest.approx(0.2 * 0.8 / (5 * 0.3 + 1), rel=0.3)
    assert spread[30.0].item() == pytest.approx(0.2 * 0.8 / (5 * 30.0 + 1), rel=0.3)


def values_of(column, num_workers, seed):
    """The values and the number of samples that each worker has."""
    indices, lengths = partitions.make("by_column", column="region")(column, num_workers, seeded(seed))
    owned = [column[row[:length]] for row, length in zip(indices, lengths.tolist(), strict=True)]
    return [set(own.tolist()) for own in owned], lengths.tolist()


def test_a_value_belongs_to_one_worker():
    column = torch.tensor([5] * 10 + [-3] * 4 + [40] * 7 + [2] * 1 + [9] * 3)
    dealt = set()
    for seed in range(20):
        values, _ = values_of(column, 2, seed)
        assert sorted(map(len, values)) == [2, 3]
        assert set.union(*values) == {5, -3, 40, 2, 9}
        assert not set.intersection(*values)
        dealt.add(frozenset(values[0]))
    assert len(dealt) > 10  # of 20


def test_workers_share_a_value_where_they_are_more():
    column = torch.tensor([1] * 12 + [2] * 12)
    for seed in range(5):
        values, lengths = values_of(column, 5, seed)
        assert sorted(map(len, values)) == [1] * 5
        assert sorted(lengths) == [4, 4, 4, 6, 6]
    values, lengths = values_of(torch.tensor([1] + [2] * 20), 4, 0)
    assert min(lengths) == 1
    assert sum(lengths) == 21


@pytest.mark.parametrize(
    ("spec", "count", "message"),
    [
        ("dirichlet:alpha=0", 2, "alpha must be .* greater than 0, got 0"),
        ("shards:shards_per_worker=0", 2, "shards_per_worker must be .* at least 1, got 0"),
        (
            "shard",
            2,
            r"unknown partition 'shard'; did you mean 'shards'\? known: by_column, dirichlet, iid, q",
        ),
        ("iid", 6, "num_workers must be at most 5 for 5 training samples, got 6"),
        ("shards", 4, "num_workers must be at most 2 for 5 training samples and shards_per_worker=2, got 4"),
        ("iid", 0, "num_workers must be an integer of at least 1, got 0"),
        ("by_column:region", 6, "num_workers must be at most 5 for 5 training samples, got 6"),
        ({"name": "by_column", "column": 3}, 2, "column must be the name of a column of the task, got 3"),
        ("quantity_skew:alpha=-1", 2, "alpha must be .* greater than 0, got -1"),
    ],
)
def test_bad_arguments(spec, count, message):
    with pytest.raises(ValueError, match=message):
        partitions.make_from(spec)(torch.zeros(5, dtype=torch.int64), count, seeded(0))
