"""Attacks on one rule each, by Fang et al. 2020: they push the update against the honest direction."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from byzgym.attacks.base import Attack, AttackContext
from byzgym.attacks.noise import Uniform
from byzgym.attacks.registry import registry
from byzgym.numerics.distances import row_norms, squared_distances
from byzgym.numerics.finite import finite_rows
from byzgym.numerics.moments import at_least_single, honest_mean
from byzgym.validation import check_int, check_real


@registry.built_in("fang_trimmed_mean")
class FangTrimmedMean(Attack):
    """Attack on the trimmed mean of Fang et al. 2020, "Local model poisoning attacks"
    (https://arxiv.org/abs/1911.11815). In each coordinate Byzantine workers submit numbers just beyond the
    honest one that is farthest from where the mean points.

    Where the honest mean is positive, they lie below the honest minimum m: uniform from ``m / b`` to m if m
    is positive, from ``b m`` to m if it is negative. Where the mean is negative, they lie above the maximum
    in the same way; where it is zero, they are zero. This is the full-knowledge version, with gradients in
    place of models. It works against the median, too. The attackers know all honest gradients.

    Published code often divides m by a number uniform from 1 to b, or multiplies it, which stays in the same
    interval. The code of min_max's authors adds both cases up where the mean is positive, and submits zero
    elsewhere.

    Args:
        b: At least 1. The paper has 2.

    Example:
        >>> gradients = torch.tensor([[[-3.0, -1.0], [5.0, -5.0], [0.0, 0.0]]])
        >>> byzantine = torch.tensor([[False, False, True]])
        >>> FangTrimmedMean(b=1)(gradients, byzantine, AttackContext.standalone(gradients))[0, 2]
        tensor([-3., -1.])
    """

    reads_own = False

    def __init__(self, b: float = 2.0) -> None:
        self.b = check_real("b", b, low=1)
        self._share = Uniform(0, 1)  # of the way from one end of the interval to the other

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, n, d], zero in honest rows; see `Attack.corrupt`."""
        rows = at_least_single(gradients)
        direction = honest_mean(rows, byzantine).sign()  # [E, d]
        low = rows.masked_fill(byzantine[..., None], torch.inf).amin(1)
        high = rows.masked_fill(byzantine[..., None], -torch.inf).amax(1)
        near = torch.where(direction > 0, low, high).masked_fill(direction == 0, 0)
        # Against the direction, b enlarges what has the other sign and shrinks what has its sign.
        far = torch.where(near * direction > 0, near / self.b, near * self.b)
        env = byzantine.nonzero()[:, 0]
        submitted = torch.zeros_like(rows)
        submitted[byzantine] = near[env].lerp(far[env], self._share.rows(rows, byzantine, context))
        return submitted


@registry.built_in("fang_krum")
class FangKrum(Attack):
    """Attack on Krum of Fang et al. 2020, "Local model poisoning attacks"
    (https://arxiv.org/abs/1911.11815). Byzantine workers submit ``-lambda * s``, where s holds the signs of
    the honest mean and lambda is as large as a search finds that makes Krum choose them.

    The search begins at an upper bound and halves lambda until Krum, told the true number m of Byzantine
    workers, would choose a Byzantine row. For n workers and d coordinates the bound is
    ``sqrt(S / ((n - 2m - 1) d)) + L / sqrt(d)``, where S is the smallest sum of squared distances of an
    honest gradient to its n - m - 2 nearest honest ones, and L the largest norm of an honest gradient:
    Byzantine rows farther out are farther from n - 2m - 1 honest ones than Krum accepts. The paper stops at
    1e-5; here the number of halvings is bounded, whatever the size of gradients. If none of them deceives
    Krum, Byzantine workers submit their own gradients, as in published code.

    This is the full-knowledge version, with gradients in place of models: the attackers know
    all honest gradients. All submit the same row, where the paper adds noise to all but one. Where n - m - 2
    or n - 2m - 1 is less than 1, it is 1. Published code leaves out the root of S; FLPoison begins at 1.

    Args:
        halvings: How often lambda is halved at most, from 0 to 1000. The default ends at about a millionth
            of the bound.

    Example:
        >>> gradients = torch.tensor([[[-5.0], [-1.0], [2.0], [5.0], [0.0]]])
        >>> byzantine = torch.tensor([[False, False, False, False, True]])
        >>> FangKrum()(gradients, byzantine, AttackContext.standalone(gradients))[0, 4]  # the bound is 8
        tensor([-4.])
    """

    def __init__(self, halvings: int = 20) -> None:
        self.halvings = check_int("halvings", halvings, low=0, high=1000)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, n, d]; see `Attack.corrupt`."""
        rows = at_least_single(gradients)
        broken = byzantine & ~finite_rows(rows)
        if broken.any():
            rows = rows.masked_fill(broken[..., None], 0)
        signs = honest_mean(rows, byzantine).sign()  # [E, d]
        size, deceived = self._search(rows, signs, byzantine)
        submitted = gradients.clone()
        submitted[deceived] = (-size[:, None] * signs)[deceived, None].to(gradients.dtype)
        return submitted

    def _search(self, rows: Tensor, signs: Tensor, byzantine: Tensor) -> tuple[Tensor, Tensor]:
        """Lambda [E] and whether Krum then chooses a Byzantine row."""
        squared, norms = squared_distances(rows), row_norms(rows)
        size = _bound(squared, norms, byzantine, rows.shape[2])
        along = (rows * signs[:, None]).sum(-1).double()  # [E, n]
        ones = signs.square().sum(-1, keepdim=True)  # [E, 1], the squared norm of the signs
        deceived = torch.zeros_like(byzantine[:, 0])
        for halving in range(self.halvings + 1):
            size = torch.where(deceived, size, size / 2) if halving else size
            step = size[:, None]
            to_byzantine = norms.square() + 2 * step * along + step.square() * ones
            scores = _krum_scores(_with_copies(squared, to_byzantine, byzantine), byzantine)
            deceived = _smallest(scores, byzantine) < _smallest(scores, ~byzantine)
            if deceived.all():
                break
        return size.to(rows.dtype), deceived


def _bound(squared: Tensor, norms: Tensor, byzantine: Tensor, dimension: int) -> Tensor:
    """The upper bound [E], from squared distances [E, n, n] and norms [E, n]."""
    num_workers, num_byzantine = byzantine.shape[1], byzantine.sum(1)
    among_honest = _krum_scores(squared.masked_fill(byzantine[:, None], torch.inf), byzantine)
    smallest = _smallest(among_honest, ~byzantine).nan_to_num(posinf=0)
    divisor = (num_workers - 2 * num_byzantine - 1).clamp_min(1) * dimension
    return (smallest / divisor).sqrt() + norms.masked_fill(byzantine, 0).amax(1) / math.sqrt(dimension)


def _with_copies(squared: Tensor, to_byzantine: Tensor, byzantine: Tensor) -> Tensor:
    """Squared distances [E, n, n], with all Byzantine rows at ``to_byzantine`` [E, n] from the others."""
    replaced = torch.where(byzantine[:, None], to_byzantine[:, :, None], squared)
    replaced = torch.where(byzantine[:, :, None], to_byzantine[:, None], replaced)
    return replaced.masked_fill(byzantine[:, None] & byzantine[:, :, None], 0)


def _krum_scores(squared: Tensor, byzantine: Tensor) -> Tensor:
    """Krum's scores [E, n] from squared distances [E, n, n]. Infinite distances do not count."""
    num_neighbors = (byzantine.shape[1] - byzantine.sum(1) - 2).clamp_min(1)  # [E]
    others = squared.clone()
    others.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    nearest = others.sort(dim=-1).values
    ranks = torch.arange(byzantine.shape[1], device=byzantine.device)
    counted = (ranks < num_neighbors[:, None, None]) & nearest.isfinite()
    return torch.where(counted, nearest, 0).sum(-1)


def _smallest(scores: Tensor, among: Tensor) -> Tensor:
    """The smallest of some scores [E, n]; infinite where there are none."""
    return scores.masked_fill(~among, torch.inf).amin(1)
