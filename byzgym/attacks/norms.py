"""An attack on rules that judge submissions by their norms."""

from __future__ import annotations

import torch
from torch import Tensor

from byzgym.attacks.base import Attack, AttackContext
from byzgym.attacks.registry import registry
from byzgym.numerics.distances import row_norms, unit_rows
from byzgym.numerics.moments import at_least_single, honest_sum


@registry.built_in("anti_clipping")
class AntiClipping(Attack):
    """The attack on norm-based rules of ByzantineMomentum (https://github.com/LPD-EPFL/ByzantineMomentum,
    "anticge"). Byzantine workers submit a row against the honest direction, with a norm just below the cut.

    It is made against rules that drop or clip the longest submissions, such as comparative gradient
    elimination, which keeps the n - m shortest of n if m are Byzantine. Of the honest gradients, of which
    there are h = n - m, the h - m shortest are then kept if all Byzantine ones are. Byzantine workers submit
    the reversed sum of these, with a norm just below that of the next one: the longest with which all of them
    are kept. Under a Byzantine majority, or m = h, no honest gradient is kept: they reverse the shortest one.
    The source counts the shortest gradient twice in the sum, and submits NaN if more attack than the rule is
    told. The attackers know all honest gradients, and
    that the rule cuts by norm, but do not try it out.

    Example:
        >>> gradients = torch.tensor([[[3.0, 4.0], [3.0, 0.0], [0.0, 9.0], [0.0, 0.0]]])
        >>> byzantine = torch.tensor([[False, False, False, True]])
        >>> AntiClipping()(gradients, byzantine, AttackContext.standalone(gradients))[0, 3]
        tensor([-7.4884, -4.9923])
    """

    reads_own = False

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, 1, d], zero where nobody is honest; see `Attack.corrupt`."""
        rows = at_least_single(gradients)
        norms = row_norms(rows.masked_fill(byzantine[..., None], 0)).masked_fill(byzantine, torch.inf)
        kept = ((~byzantine).sum(1) - byzantine.sum(1)).clamp_min(0)  # [E], the honest ones that are kept
        order = norms.argsort(dim=1, stable=True)
        last = kept.clamp_max(byzantine.shape[1] - 1)[:, None]
        cut = norms.gather(1, order.gather(1, last))  # [E, 1], infinite where nobody is honest
        summed = order.argsort(dim=1) < kept.clamp_min(1)[:, None]
        direction = unit_rows(honest_sum(rows, ~summed | byzantine))
        return (-BELOW * cut.nan_to_num(posinf=0).to(rows.dtype) * direction)[:, None]


BELOW = 1 - 1e-5
"""Of the norm at the cut: less, whatever the rounding."""
