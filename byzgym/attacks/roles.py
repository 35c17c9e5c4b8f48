"""Role functions: which of the workers behave Byzantine in a round (GAA paper, section 3.1).

A role function is any callable ``(assigned, current, context) -> byzantine``: ``assigned`` [E, n] is the set
drawn when the episode began, ``current`` [E, n] the set of the last round (``assigned`` in round 0), and the
answer [E, n] is the set of this round. It draws randomness only from ``context``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from byzgym.attacks.base import AttackContext
from byzgym.registry import Registry

registry: Registry[Callable[[Tensor, Tensor, AttackContext], Tensor]] = Registry("role function")
names = registry.names
register = registry.register
make = registry.make
make_from = registry.make_from


@registry.built_in("static")
class Static:
    """The workers drawn at the start of the episode stay Byzantine throughout."""

    def __call__(self, assigned: Tensor, current: Tensor, context: AttackContext) -> Tensor:
        """Return the assigned set."""
        return assigned
