"""How the training samples are divided among the workers.

A partition is a callable ``(labels [N] int64, num_workers, generator) -> (indices [n, m], lengths [n])``.
Row i of ``indices`` holds the ``lengths[i]`` samples of worker i and then repeats them up to the width of the
table: to draw a column below ``lengths[i]`` is to draw one of the worker's samples. Every sample belongs to
exactly one worker and every worker has at least one. All randomness comes from the generator.

A partition with an attribute ``column`` is given that column of the task in place of the labels, see `Task`.

Example:
    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    >>> indices, lengths = make("shards", shards_per_worker=1)(labels, 2, torch.Generator().manual_seed(0))
    >>> labels[indices]
    tensor([[1, 1, 1, 1],
            [0, 0, 0, 0]])
    >>> lengths
    tensor([4, 4])
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import torch
from torch import Tensor

from byzgym.registry import Registry, is_callable
from byzgym.validation import check_int, check_real, shown

Partition = Callable[[Tensor, int, torch.Generator], tuple[Tensor, Tensor]]

registry: Registry[Partition] = Registry("partition", is_callable, "a callable")
names = registry.names
register = registry.register
make = registry.make
make_from = registry.make_from


@registry.built_in("iid")
class Iid:
    """Random shares that differ by at most one sample."""

    def __call__(self, labels: Tensor, num_workers: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Partition, see the module; a ValueError if there are fewer samples than workers."""
        _check_enough(labels, num_workers)
        order = _permutation(len(labels), generator).to(labels.device)
        share, extra = divmod(len(labels), num_workers)
        lengths = torch.full((num_workers,), share, device=labels.device)
        lengths[:extra] += 1
        return _table(order, lengths)


@registry.built_in("dirichlet")
class Dirichlet:
    """Label skew: each class is divided among the workers in proportions drawn from Dirichlet(alpha).

    Small alpha gives shares of few classes and of unequal size; large alpha approaches equal shares. A worker
    without a sample is given one of the largest worker's.

    Source: Hsu, Qi and Brown 2019 (https://arxiv.org/abs/1909.06335), in the form of Yurochkin et al. 2019
    (https://arxiv.org/abs/1905.12022): proportions over workers for each class, which use every sample, where
    Hsu et al. draw proportions over classes for each worker.

    Args:
        alpha: Concentration, greater than 0.
    """

    def __init__(self, alpha: float = 0.5) -> None:
        self.alpha = check_real("alpha", alpha, above=0)

    def __call__(self, labels: Tensor, num_workers: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Partition, see the module; a ValueError if there are fewer samples than workers."""
        _check_enough(labels, num_workers)
        order = _by_label(labels, generator)
        counts = labels.bincount()
        counts = counts[counts > 0]
        edges = _proportions(self.alpha, len(counts), num_workers, generator).to(labels.device).cumsum(-1)
        owner = _divide(counts, edges)
        _feed_empty(owner, num_workers, generator)
        return _table(order[owner.argsort(stable=True)], owner.bincount(minlength=num_workers))


@registry.built_in("shards")
class Shards:
    """Few classes a worker: samples sorted by label, cut into equal shards, dealt out at random.

    Source: McMahan et al. 2017 (https://arxiv.org/abs/1602.05629), whose non-IID partition of MNIST gives two
    shards to each client.

    Args:
        shards_per_worker: Shards a worker gets, at least 1.
    """

    def __init__(self, shards_per_worker: int = 2) -> None:
        self.shards_per_worker = check_int("shards_per_worker", shards_per_worker, 1)

    def __call__(self, labels: Tensor, num_workers: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Partition, see the module; a ValueError if there are fewer samples than shards."""
        _check_enough(labels, num_workers, self.shards_per_worker)
        count, num_shards = len(labels), num_workers * self.shards_per_worker
        order = _by_label(labels, generator)
        shard = torch.arange(count, device=labels.device) * num_shards // count
        dealt = _permutation(num_shards, generator).to(labels.device) % num_workers
        owner = dealt[shard]
        return _table(order[owner.argsort(stable=True)], owner.bincount(minlength=num_workers))


@registry.built_in("by_column")
class ByColumn:
    """The values of a column are dealt out at random, and a worker gets all samples with one of its values.

    This is how data is divided by nature: each hospital has the patients of its state. Numbers of values
    differ by at most one between workers; numbers of samples differ as they do between values. With more
    workers than values, a value is divided evenly among the workers that it is dealt to; a worker left
    without a sample is given one of the largest worker's.

    Args:
        column: The name of a column that the task has, such as SP_STATE_CODE of `cms`.

    Example:
        >>> states = torch.tensor([7, 7, 7, 8, 8, 9, 9, 9])
        >>> indices, lengths = ByColumn("state")(states, 2, torch.Generator().manual_seed(0))
        >>> [states[row[:length]].unique().tolist() for row, length in zip(indices, lengths)]
        [[7], [8, 9]]
    """

    def __init__(self, column: str) -> None:
        if not isinstance(column, str) or not column:
            raise ValueError(f"column must be the name of a column of the task, got {shown(column)}")
        self.column = column

    def __call__(self, values: Tensor, num_workers: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Partition, see the module; a ValueError if there are fewer samples than workers."""
        _check_enough(values, num_workers)
        order = _by_label(values, generator)
        counts = values.unique(return_counts=True)[1]  # [v], in the order of the values
        workers = _permutation(num_workers, generator).to(values.device)
        dealt = _permutation(len(counts), generator).to(values.device)  # [v], a place for each value
        if num_workers <= len(counts):
            owner = workers[dealt % num_workers].repeat_interleave(counts)
        else:
            sharing = [workers[place :: len(counts)] for place in dealt.tolist()]  # the workers of each value
            owner = torch.cat([_evenly(*pair) for pair in zip(counts.tolist(), sharing, strict=True)])
        _feed_empty(owner, num_workers, generator)
        return _table(order[owner.argsort(stable=True)], owner.bincount(minlength=num_workers))


@registry.built_in("quantity_skew")
class QuantitySkew:
    """Random shares of unequal size: their proportions are drawn from Dirichlet(alpha), whatever the labels.

    Small alpha gives one worker almost everything; large alpha approaches equal shares. A worker without a
    sample is given one of the largest worker's.

    Source: Li, Diao, Chen and He 2022, "Federated Learning on Non-IID Data Silos"
    (https://arxiv.org/abs/2102.02079), section 4.3.

    Args:
        alpha: Concentration, greater than 0 (beta in the paper).
    """

    def __init__(self, alpha: float = 0.5) -> None:
        self.alpha = check_real("alpha", alpha, above=0)

    def __call__(self, labels: Tensor, num_workers: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Partition, see the module; a ValueError if there are fewer samples than workers."""
        _check_enough(labels, num_workers)
        order = _permutation(len(labels), generator).to(labels.device)
        edges = _proportions(self.alpha, 1, num_workers, generator).to(labels.device).cumsum(-1)
        owner = _divide(torch.tensor([len(labels)]), edges)
        _feed_empty(owner, num_workers, generator)
        return _table(order[owner.argsort(stable=True)], owner.bincount(minlength=num_workers))


def _check_enough(labels: Tensor, num_workers: int, per_worker: int = 1) -> None:
    most = len(labels) // per_worker
    if check_int("num_workers", num_workers, 1) > most:
        given = f"{len(labels)} training samples"
        given += f" and shards_per_worker={per_worker}" if per_worker > 1 else ""
        raise ValueError(f"num_workers must be at most {most} for {given}, got {num_workers}")


def _permutation(count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator, device=generator.device)


def _by_label(labels: Tensor, generator: torch.Generator) -> Tensor:
    """All samples sorted by label, in random order within a label."""
    order = _permutation(len(labels), generator).to(labels.device)
    return order[labels[order].argsort(stable=True)]


def _evenly(count: int, workers: Tensor) -> Tensor:
    """Owner of each of so many samples when workers [w] share them, [count]."""
    return workers[torch.arange(count, device=workers.device) * len(workers) // count]


def _proportions(alpha: float, num_rows: int, num_workers: int, generator: torch.Generator) -> Tensor:
    """Dirichlet samples, shape [num_rows, num_workers].

    They are normalised from the logarithms of Gamma(alpha) = Gamma(alpha + 1) * U^(1 / alpha), because
    Gamma(alpha) itself underflows for all workers when alpha is small. Likewise the largest U of a row
    becomes 1 first.
    """
    shape = (num_rows, num_workers)
    device = generator.device
    concentration = torch.full(shape, alpha + 1, dtype=torch.float64, device=device)
    gamma = torch._standard_gamma(concentration, generator=generator)
    uniform = torch.rand(shape, dtype=torch.float64, device=device, generator=generator)
    logarithm = uniform.clamp(min=1e-300).log()
    return (gamma.log() + (logarithm - logarithm.amax(-1, keepdim=True)) / alpha).softmax(-1)


def _divide(counts: Tensor, edges: Tensor) -> Tensor:
    """Owner of each sample when class c, of counts[c] samples, is cut at the fractions edges[c]; [N]."""
    owners = []
    for count, cuts in zip(counts.tolist(), edges, strict=True):
        middle = (torch.arange(count, device=edges.device, dtype=edges.dtype) + 0.5) / count
        owners.append(torch.searchsorted(cuts, middle))
    return torch.cat(owners).clamp_(max=edges.shape[1] - 1)  # the last edge may round to just below 1


def _feed_empty(owner: Tensor, num_workers: int, generator: torch.Generator) -> None:
    """Give each worker without a sample a random one of the largest worker's, in place."""
    counts = owner.bincount(minlength=num_workers)
    empty = (counts == 0).nonzero()[:, 0].tolist()
    if not empty:
        return
    shares = [share.tolist() for share in owner.argsort(stable=True).split(counts.tolist())]
    largest = [(-len(share), worker) for worker, share in enumerate(shares)]  # a heap: thousands may be empty
    heapq.heapify(largest)
    for worker in empty:
        size, donor = largest[0]
        choice = torch.randint(-size, (), generator=generator, device=generator.device)
        owner[shares[donor].pop(int(choice))] = worker
        heapq.heapreplace(largest, (size + 1, donor))


def _table(order: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Cut ``order`` into consecutive rows of ``lengths``, each repeated up to the longest."""
    starts = lengths.cumsum(0) - lengths
    columns = torch.arange(int(lengths.max()), device=order.device)
    return order.take(starts[:, None] + columns % lengths[:, None]), lengths
