"""The rules by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from byzgym.registry import Registry

registry: Registry[Callable[[Tensor], Tensor]] = Registry("rule")
names = registry.names
register = registry.register
make = registry.make
make_from = registry.make_from
