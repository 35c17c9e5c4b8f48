"""Clusters of workers, for all runs at once.

Runs have few points, so every method works on the matrix of all distances [E, n, n].
"""

from __future__ import annotations

import torch
from torch import Tensor

from byzgym.numerics.distances import squared_distances, unit_rows

SHIFTS = 300
"""The most steps of a mean shift."""
SETTLED = 1e-3
"""A point whose step is shorter than this part of the bandwidth has arrived."""
ROUNDING = 1 + 1e-9
"""Widens a radius, so that points at exactly this distance count, whatever the last bits say."""


def cosine_distances(rows: Tensor) -> Tensor:
    """One less the cosine between rows [..., n, d]: shape [..., n, n], from 0 to 2, in double precision.

    It is computed from differences of unit vectors, so small ones keep their digits. A zero row is at
    distance 1 from the others and 0 from other zero rows.

    Example:
        >>> cosine_distances(torch.tensor([[1.0, 0.0], [0.0, 3.0], [-2.0, 0.0]]))[0]
        tensor([0., 1., 2.], dtype=torch.float64)
    """
    rows = rows.detach()
    units = unit_rows(rows if rows.element_size() >= 4 else rows.float())
    distances = squared_distances(units) / 2
    zero = ~rows.any(-1)
    return torch.where(zero[..., :, None] != zero[..., None, :], 1.0, distances)


def single_linkage(distances: Tensor) -> Tensor:
    """The least threshold at which two points are connected, for all pairs: shape [E, n, n].

    Points are linked where their distance [E, n, n] is at most the threshold.

    Example:
        >>> points = torch.tensor([0.0, 1.0, 3.0])
        >>> single_linkage((points[:, None] - points).abs()[None])[0, 0]
        tensor([0., 1., 2.])
    """
    reach = distances
    for via in range(distances.shape[-1]):
        reach = torch.minimum(reach, torch.maximum(reach[:, :, via, None], reach[:, None, via]))
    return reach


def average_linkage(distances: Tensor) -> Tensor:
    """Two clusters, by agglomeration: a label, the number of a member, for each point, shape [E, n].

    From single points on, the two clusters with the smallest mean distance [E, n, n] between their members
    are merged, of several the first, until two are left.

    Example:
        >>> points = torch.tensor([0.0, 1.0, 7.0, 8.0, 3.0])
        >>> average_linkage((points[:, None] - points).abs()[None])
        tensor([[0, 0, 2, 2, 0]])
    """
    num_runs, num_points = distances.shape[:2]
    between = distances.double().clone()
    between.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    labels = torch.arange(num_points, device=distances.device).repeat(num_runs, 1)
    sizes = torch.ones_like(between[:, 0])
    runs = torch.arange(num_runs, device=distances.device)
    for _ in range(num_points - 2):
        pair = between.flatten(1).argmin(1)
        first, second = pair // num_points, pair % num_points  # the matrix is symmetric: first < second
        weight, other = sizes[runs, first], sizes[runs, second]
        merged = between[runs, first] * weight[:, None] + between[runs, second] * other[:, None]
        merged /= (weight + other)[:, None]  # infinite at both
        for index, values in ((first, merged), (second, torch.full_like(merged, torch.inf))):
            between[runs, index] = between[runs, :, index] = values
        sizes[runs, first] += other
        labels = torch.where(labels == second[:, None], first[:, None], labels)
    return labels


def largest_mean_shift_cluster(points: Tensor, quantile: float) -> Tensor:
    """Which points [E, n, k] are in the largest cluster that the mean shift finds: bool [E, n].

    This is scikit-learn's ``MeanShift(bandwidth, cluster_all=False)``, with every point as a seed, and its
    ``estimate_bandwidth(quantile)``: the bandwidth is the mean distance of the points from their
    ``int(quantile n)``-th nearest, counting themselves, but at least from the nearest other one (scikit-learn
    fails there). Each seed moves to the mean of the points within the
    bandwidth until it rests. Where several come to rest within the bandwidth, the one with most points
    around it is a centre, of equal ones that with the largest coordinates. A point belongs to the nearest
    centre if that is within the bandwidth.
    """
    num_points = points.shape[1]
    nearest = torch.linalg.vector_norm(points[:, :, None] - points[:, None], dim=-1).sort(-1).values
    rank = min(num_points, max(2, int(quantile * num_points)))
    bandwidth = nearest[..., rank - 1].mean(-1)[:, None, None]  # [E, 1, 1]
    seeds, counts = _shift(points, bandwidth)
    order = _descending(seeds, counts)
    seeds = seeds.gather(1, order[..., None].expand_as(seeds))
    close = torch.linalg.vector_norm(seeds[:, :, None] - seeds[:, None], dim=-1) <= bandwidth * ROUNDING
    centre = torch.ones_like(counts, dtype=torch.bool)
    for rank in range(num_points):
        near = close[:, rank].clone()
        near[:, rank] = False
        centre &= ~(near & centre[:, rank, None])
    distances = torch.linalg.vector_norm(points[:, :, None] - seeds[:, None], dim=-1)
    nearest, label = distances.masked_fill(~centre[:, None], torch.inf).min(-1)
    member = torch.nn.functional.one_hot(label, num_points).bool()
    member &= (nearest <= bandwidth[..., 0] * ROUNDING)[..., None]
    largest = member.sum(1).argmax(-1)
    return member.gather(2, largest[:, None, None].expand(-1, num_points, 1))[..., 0]


def _shift(points: Tensor, bandwidth: Tensor) -> tuple[Tensor, Tensor]:
    """Where seeds at all points [E, n, k] come to rest, and how many points [E, n] are around them."""
    seeds = points
    counts = torch.ones_like(points[..., 0])
    settled = torch.zeros_like(counts, dtype=torch.bool)
    for _ in range(SHIFTS):
        distances = torch.linalg.vector_norm(seeds[:, :, None] - points[:, None], dim=-1)
        within = (distances <= bandwidth * ROUNDING).to(points.dtype)
        found = within.sum(-1)
        settled = settled | (found == 0)  # between points that are all a little too far away
        moved = torch.bmm(within, points) / found.clamp_min(1)[..., None]
        step = torch.linalg.vector_norm(moved - seeds, dim=-1)
        seeds = torch.where(settled[..., None], seeds, moved)
        counts = torch.where(settled, counts, found)
        settled = settled | (step <= SETTLED * bandwidth[..., 0])
        if settled.all():
            break
    return seeds, counts


def _descending(seeds: Tensor, counts: Tensor) -> Tensor:
    """The order [E, n] by counts [E, n], then by the coordinates of the seeds [E, n, k], largest first."""
    order = torch.arange(counts.shape[1], device=counts.device).expand(counts.shape)
    for key in (*seeds.flip(-1).unbind(-1), counts):  # the most important last
        order = order.gather(1, key.gather(1, order).sort(dim=1, descending=True, stable=True).indices)
    return order
