"""The attacks by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from byzgym.attacks.base import AttackContext
from byzgym.registry import Registry, is_callable

registry: Registry[Callable[[Tensor, Tensor, AttackContext], Tensor]] = Registry(
    "attack", is_callable, "a callable"
)
names = registry.names
register = registry.register
make = registry.make
make_from = registry.make_from
