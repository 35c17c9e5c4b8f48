"""Workers that resemble each other: near copies in a round, and groups of workers that copy each other."""

from __future__ import annotations

import numpy as np
import torch
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from torch import Tensor

from byzgym.numerics.distances import row_norms, squared_distances
from byzgym.validation import check_array, check_tensor

OWN = 0.05
"""Near copies differ by at most this part of the larger of their norms."""
BULK = 0.1
"""And by at most this part of what workers who are no near copies differ by."""
SHARED = 0.5
"""Workers of a group are near copies in at least this part of the rounds in which one of them is one."""
FEWEST = 3
"""Rounds in which two workers must have been near copies to be put into one group."""


@torch.no_grad()
def near_copies(gradients: Tensor) -> Tensor:
    """For every submission the first one that is nearly the same, and itself where there is none.

    All honest gradients lie near the true gradient, so likeness alone says nothing. Two submissions are near
    copies where they differ far less than independent minibatches make honest workers differ: by at most
    `OWN` of their norm, and by at most `BULK` of the typical distance (the median over workers) to the
    nearest worker who is not that close. If nobody is further away, nobody is a copy.

    Args:
        gradients: Shape [E, n, d]. Zero rows (a rejected submission is one) are copies of nobody.

    Returns:
        Numbers of workers, int64, shape [E, n].

    Example:
        >>> near_copies(torch.tensor([[[1.0, 0.0], [0.9, 0.5], [1.0, 0.0], [0.8, -0.4]]]))
        tensor([[0, 1, 0, 3]])
    """
    check_tensor("gradients", gradients, "E", "n", "d")
    num_workers = gradients.shape[1]
    squared = squared_distances(gradients).double()
    norms = row_norms(gradients).double()
    own = torch.eye(num_workers, dtype=torch.bool, device=gradients.device)
    sent = norms > 0
    pairs = sent[:, :, None] & sent[:, None, :] & ~own
    larger = torch.maximum(norms[:, :, None], norms[:, None, :])
    close = pairs & (squared.sqrt() <= OWN * larger)
    nearest = squared.sqrt().masked_fill(~pairs | close, torch.inf).amin(2)  # [E, n], of those not close
    bulk = nearest.masked_fill(nearest.isinf(), torch.nan).nanmedian(1).values.nan_to_num(0.0)
    copies = close & (squared.sqrt() <= BULK * bulk[:, None, None]) & (bulk > 0)[:, None, None]
    numbers = torch.arange(num_workers, device=gradients.device)
    return torch.where(copies | own, numbers, num_workers).amin(2)


def groups(copy_of: np.ndarray) -> list[list[int]]:
    """Groups of workers that are near copies of each other, as Sybils are (one attacker, several workers).

    FoolsGold (Fung et al. 2020, "The Limitations of Federated Learning in Sybil Settings",
    https://www.usenix.org/conference/raid2020/presentation/fung) finds them by the cosine of their summed
    submissions, which honest workers with alike data share. Here the similarity of two workers is the Jaccard
    index of rounds: those in which they are near copies of each other, over those in which one of them is a
    near copy of anybody. Average linkage joins workers down to an index of `SHARED`.

    Args:
        copy_of: As of `near_copies`, for the rounds of one run, shape [T, n].

    Returns:
        Groups of two workers or more, each sorted, the largest first.

    Example:
        >>> groups(np.array([[0, 1, 0, 3]] * 5))
        [[0, 2]]
    """
    copy_of = check_array("copy_of", copy_of, int, "T", "n")
    num_workers = copy_of.shape[1]
    if num_workers < 2:
        return []
    together = np.zeros((num_workers, num_workers))
    either = np.zeros((num_workers, num_workers))
    for first in copy_of:
        same = first[:, None] == first[None, :]
        copying = same.sum(1) > 1
        together += same & copying[:, None]
        either += copying[:, None] | copying[None, :]
    index = np.where(together >= FEWEST, together / np.maximum(either, 1), 0)
    np.fill_diagonal(index, 1)
    tree = hierarchy.linkage(squareform(1 - index, checks=False), "average")
    labels = hierarchy.fcluster(tree, 1 - SHARED, "distance")
    found = [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]
    return sorted((group for group in found if len(group) > 1), key=lambda group: (-len(group), group))
