"""Finding rows with an entry that is NaN or infinite."""

from __future__ import annotations

import math

from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether the sum is finite; if so, every entry is (huge entries may make the sum overflow)."""
    return math.isfinite(tensor.detach().sum())


def finite_rows(rows: Tensor) -> Tensor:
    """Which rows [..., n, d] have finite entries only: bool [..., n]."""
    # A pass of isfinite takes some fifty times as long as a sum, so it looks at suspect rows only.
    finite = rows.detach().sum(-1).isfinite()
    if not finite.all():
        suspect = ~finite
        finite[suspect] = rows[suspect].isfinite().all(-1)
    return finite
