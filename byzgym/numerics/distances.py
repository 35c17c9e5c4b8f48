"""Norms, distances and inner products of rows, precise despite cancellation, overflow and underflow.

A Gram matrix is by far the fastest way to all distances, but it loses the digits of distances that are small
beside the norms. A first, fast pass computes it from the rows as they are and marks the pairs whose distance
is doubtful. Rows connected by doubtful pairs are then centred on one of them, which removes what they have in
common, and multiplied again in double precision, where the squares of 1e-30 and 1e30 are ordinary numbers.
This is repeated until no pair is doubtful. Each turn settles at least the distances to the centres.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK = 8192  # columns per product: enough to be fast, few enough that single precision does not suffer
BATCH = 1 << 22  # values in a product of many blocks
SCRATCH = 1 << 17  # values of scratch in double precision
NORM_BLOCK = 1 << 17  # columns whose squares are summed in the type of the rows
CACHED = 1 << 21  # values of the differences from a point that are computed at a time
LONG_ROW = 1 << 14  # columns from which comparing two rows costs less than centring them
# A squared distance below this part of the sum of the two squared norms is doubtful, by type of the product.
TRUSTED = {torch.float32: 1e-2, torch.float64: 1e-6}


def row_norms(rows: Tensor) -> Tensor:
    """Euclidean norms of the rows [..., n, d], shape [..., n], in double precision; differentiable."""
    # Sums of millions of squares in single precision would lose digits.
    blocks = [torch.linalg.vector_norm(block, dim=-1).double() for block in rows.split(NORM_BLOCK, dim=-1)]
    parts = torch.stack(blocks)  # [blocks, ..., n]
    misfit = ~_squares_fit(parts.detach().square().sum(0), rows)
    norms = parts[0] if len(parts) == 1 else torch.linalg.vector_norm(parts.masked_fill(misfit, 0), dim=0)
    if misfit.any():
        norms = norms.index_put((misfit,), torch.linalg.vector_norm(rows[misfit].double(), dim=-1))
    return norms


def distances_to(rows: Tensor, point: Tensor) -> Tensor:
    """Euclidean distances of the rows [..., n, d] from a point [..., d], shape [..., n], in double precision.

    Example:
        >>> distances_to(torch.tensor([[4.0, 5.0], [1.0, 1.0]]), torch.tensor([1.0, 1.0]))
        tensor([5., 0.], dtype=torch.float64)
    """
    # Differences of a few columns at a time stay in the cache.
    columns = max(1024, CACHED // max(1, rows.shape[:-1].numel()))
    blocks = zip(rows.split(columns, -1), point[..., None, :].split(columns, -1), strict=True)
    return torch.linalg.vector_norm(torch.stack([row_norms(block - part) for block, part in blocks]), dim=0)


def unit_rows(rows: Tensor) -> Tensor:
    """Rows [..., d] divided by their Euclidean norms; zero rows stay zero.

    >>> unit_rows(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    norms = torch.linalg.vector_norm(rows, dim=-1)
    misfit = ~((norms > 1e-15) & (norms < 1e18))  # squares may underflow or overflow
    if misfit.any():
        # Only these rows: the last bits of the others must not depend on them.
        part = rows[misfit] / rows[misfit].abs().amax(-1, keepdim=True).clamp(
            min=torch.finfo(rows.dtype).tiny
        )
        rows = rows.index_put((misfit,), part)
        norms = norms.index_put((misfit,), torch.linalg.vector_norm(part, dim=-1))
    return rows / norms.masked_fill(norms == 0, 1)[..., None]


def _squares_fit(squared_norms: Tensor, rows: Tensor) -> Tensor:
    """Whether squares of such rows neither overflow nor underflow in the type of the rows."""
    limits = torch.finfo(rows.dtype)
    return (squared_norms < limits.max) & (squared_norms > rows.shape[-1] * limits.tiny * 1e6)


def squared_distances(gradients: Tensor) -> Tensor:
    """Squared distances between the rows [..., n, d], shape [..., n, n], in double precision.

    The matrix is symmetric. Equal rows are at distance exactly zero and at equal distances from the others.
    """
    return Geometry(gradients).squared.reshape(*gradients.shape[:-1], gradients.shape[-2])


def squared_diameter(centred: Tensor) -> Tensor:
    """The largest squared distance [...] between rows [..., n, d] whose mean is zero, in double precision.

    No such row is farther from the origin than the diameter, so the Gram matrix loses no digits that matter.

    Example:
        >>> squared_diameter(torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 0.0]]))
        tensor(36., dtype=torch.float64)
    """
    squared, _ = _distances_from(_gram(centred.detach().reshape(-1, *centred.shape[-2:])), trusted=0)
    return squared.flatten(1).amax(1).reshape(centred.shape[:-2])


class Geometry:
    """The squared distances between finite rows [..., n, d], and their inner products about any row.

    Attributes:
        squared: The squared distances, shape [E, n, n] with all leading dimensions as one, double.
    """

    def __init__(self, gradients: Tensor) -> None:
        rows = gradients.detach().reshape(-1, *gradients.shape[-2:])
        self.rows = rows if rows.dtype in TRUSTED else rows.float()
        self._gram = _gram(self.rows)
        self.squared, doubtful = _distances_from(self._gram, TRUSTED[self.rows.dtype])
        self._involved = doubtful.any(-1)
        if self._involved.any():
            left = doubtful.clone()
            if self.rows.shape[-1] >= LONG_ROW:
                _settle_equal(self.rows, self.squared, left)
            _refine(self.rows, self.squared, left)
            first = (self.squared == 0).int().argmax(-1)
            self.squared, self._gram = _unite(self.squared, first), _unite(self._gram, first)
            self._involved = (doubtful & (self.squared > 0)).any(-1)

    def gram_about(self, center: Tensor) -> Tensor:
        """Inner products of the rows less the row ``center`` [E] of each run, shape [E, n, n].

        They are precise relative to the distances from the center.
        """
        gram = shift_gram(self._gram, center)
        # Where no distance from the center was doubtful, the first pass was right about these, too.
        wrong = self._involved.gather(-1, center[:, None])[:, 0]
        if wrong.any():
            runs = wrong.nonzero()[:, 0]
            members = torch.arange(gram.shape[-1], device=gram.device).expand(len(runs), -1)
            centers = center[runs, None].expand_as(members)
            gram[runs] = _gram_of_differences(self.rows, runs, members, centers)
        return gram


def shift_gram(gram: Tensor, center: Tensor) -> Tensor:
    """Move the origin of a Gram matrix [E, n, n] to the row ``center`` [E]."""
    column = gram.gather(-1, center[:, None, None].expand(-1, gram.shape[-1], 1))
    corner = column.gather(-2, center[:, None, None])
    # In this order the row and the column of the center become exactly zero.
    return (gram - column.mT) - (column - corner)


def _gram(rows: Tensor) -> Tensor:
    """The Gram matrix [E, n, n] of rows [E, n, d], in double precision."""
    gram = _block_products(rows)
    fits = _squares_fit(gram.diagonal(dim1=-2, dim2=-1), rows).all(-1)
    if not fits.all():
        runs = (~fits).nonzero()[:, 0]
        exponents = row_norms(rows)[runs].clamp_min(torch.finfo(rows.dtype).tiny).log2().floor()
        scales = torch.exp2(exponents)
        scaled = _block_products(rows, runs, 1 / scales)
        gram[runs] = scaled * scales[:, :, None] * scales[:, None, :]
    return gram


def _block_products(rows: Tensor, runs: Tensor | None = None, factors: Tensor | None = None) -> Tensor:
    """The Gram matrix of rows [E, n, d], or of chosen runs [m] times factors [m, n], summed by blocks."""
    num_rows, num_columns = rows.shape[1:]
    num_runs = len(rows) if runs is None else len(runs)
    total = torch.zeros(num_runs, num_rows, num_rows, dtype=torch.float64, device=rows.device)
    # A user's setting may let products in single precision be rounded further; here they must not be.
    coarse = rows.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    if num_runs == 1 and runs is None and not coarse:
        # Blocks of one run are multiplied together, so that threads can share them; a few columns are left.
        count = 2 * math.ceil(num_columns / (2 * BLOCK))
        width, batch = num_columns // count, max(1, BATCH // (num_rows * BLOCK))
        folded = rows[0, :, : width * count].unflatten(1, (count, width)).transpose(0, 1)
        for blocks in folded.split(batch):
            total += torch.bmm(blocks, blocks.mT).sum(0, dtype=torch.float64)
        rows = rows[:, :, width * count :]
    for first in range(0, rows.shape[2], BLOCK):
        block = rows[:, :, first : first + BLOCK]
        if runs is not None and factors is not None:
            block = block.index_select(0, runs) * factors[..., None].to(rows.dtype)
        if coarse:
            block = block.double()
        total += torch.bmm(block, block.mT)
    return (total + total.mT) / 2


def _distances_from(gram: Tensor, trusted: float) -> tuple[Tensor, Tensor]:
    """Squared distances from a Gram matrix, and which of them cannot be trusted."""
    norms = gram.diagonal(dim1=-2, dim2=-1)
    sums = norms[:, :, None] + norms[:, None, :]
    squared = (sums - 2 * gram).clamp_min(0)
    doubtful = ~(squared > trusted * sums)  # true for NaN, too
    squared.diagonal(dim1=-2, dim2=-1).zero_()
    doubtful.diagonal(dim1=-2, dim2=-1).fill_(False)
    return squared, doubtful


def _settle_equal(rows: Tensor, squared: Tensor, doubtful: Tensor) -> None:
    """Set doubtful distances between equal rows to zero, in place: colluding workers often send one row."""
    equal = doubtful.any(-1)  # [E, n]
    own = torch.arange(rows.shape[1], device=rows.device)
    first = torch.where(equal, torch.minimum(doubtful.int().argmax(-1), own), own)
    for run, row in (first < own).nonzero().tolist():
        equal[run, row] = torch.equal(rows[run, row], rows[run, int(first[run, row])])
    together = (first[:, :, None] == first[:, None, :]) & equal[:, :, None] & equal[:, None, :]
    squared.masked_fill_(together, 0)
    doubtful &= ~together


def _refine(rows: Tensor, squared: Tensor, doubtful: Tensor) -> None:
    """Replace the doubtful squared distances, in place."""
    for _ in range(rows.shape[1]):
        runs = doubtful.flatten(1).any(-1).nonzero()[:, 0]
        if not len(runs):
            return
        involved = doubtful[runs].any(-1)
        most = int(involved.sum(-1).max())
        members = involved.sort(dim=-1, descending=True, stable=True).indices[:, :most]
        centers = _first_connected(doubtful[runs]).gather(-1, members)
        gram = _gram_of_differences(rows, runs, members, centers)
        refined, still = _distances_from(gram, TRUSTED[torch.float64])
        together = centers[:, :, None] == centers[:, None, :]
        # The distance to a center, which is at the origin, is a norm: it has lost no digits.
        at_origin = gram.diagonal(dim1=-2, dim2=-1) == 0
        still &= together & ~at_origin[:, :, None] & ~at_origin[:, None, :]
        at = (runs[:, None, None], members[:, :, None], members[:, None, :])
        squared[at] = torch.where(together, refined, squared[at])
        doubtful[runs] = False
        doubtful[at] = still
    # What is still NaN overflows double precision.
    squared.nan_to_num_(nan=torch.inf)


def _first_connected(linked: Tensor) -> Tensor:
    """For each of n nodes the first one connected with it, by links [E, n, n]; shape [E, n]."""
    reached = (linked | torch.eye(linked.shape[-1], dtype=torch.bool, device=linked.device)).float()
    for _ in range((linked.shape[-1] - 1).bit_length()):
        reached = (torch.bmm(reached, reached) > 0).float()
    return reached.argmax(-1)


def _gram_of_differences(rows: Tensor, runs: Tensor, members: Tensor, centers: Tensor) -> Tensor:
    """The Gram matrix [m, k, k] of k rows less other rows, in double precision.

    In the ``runs`` [m] of the ``rows`` [E, n, d], these are the ``members`` [m, k] less ``centers`` [m, k].
    """
    total = torch.zeros(*members.shape, members.shape[1], dtype=torch.float64, device=rows.device)
    flat = rows.flatten(0, 1)
    offsets = runs[:, None] * rows.shape[1]
    taken, origins = (members + offsets).flatten(), (centers + offsets).flatten()
    block = max(256, SCRATCH // members.numel())
    for first in range(0, rows.shape[-1], block):
        columns = flat[:, first : first + block]
        differences = columns.index_select(0, taken).double()
        differences -= columns.index_select(0, origins)
        differences = differences.reshape(*members.shape, -1)
        total += torch.bmm(differences, differences.mT)
    return (total + total.mT) / 2


def _unite(matrix: Tensor, first: Tensor) -> Tensor:
    """Give equal rows the same entries in a matrix [E, n, n]: those of the first of them, at [E, n]."""
    matrix = matrix.gather(1, first[:, :, None].expand_as(matrix))
    return matrix.gather(2, first[:, None, :].expand_as(matrix))


def take_row(gradients: Tensor, index: Tensor) -> Tensor:
    """The row [..., d] of gradients [..., n, d] at an index [...]."""
    return take_rows(gradients, index[..., None])[..., 0, :]


def take_rows(gradients: Tensor, indices: Tensor) -> Tensor:
    """The rows [..., k, d] of gradients [..., n, d] at indices [..., k]."""
    num_rows, dimension = gradients.shape[-2:]
    chosen = indices.reshape(gradients.shape[:-2].numel(), -1)
    offsets = num_rows * torch.arange(len(chosen), device=chosen.device)
    # Four times as fast as indexing with two tensors, ten times as fast as torch.gather.
    flat = gradients.reshape(-1, dimension).index_select(0, (chosen + offsets[:, None]).flatten())
    return flat.reshape(*indices.shape, dimension)
