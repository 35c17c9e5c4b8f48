"""Attacks: honest gradients [E, n, d] -> submitted gradients, and the role functions that say who attacks when.

A new attack is one small file: subclass `Attack` (or `DataPoisoning`), decorate it with
``@registry.built_in("name")`` and import it here. From outside the package call `register`, which also takes
a factory of any callable ``(gradients, byzantine, context) -> submitted``.
"""

from byzgym.attacks import roles
from byzgym.attacks.base import Attack, AttackContext, DataPoisoning, honest_mean
from byzgym.attacks.registry import make, make_from, names, register

__all__ = [
    "Attack",
    "AttackContext",
    "DataPoisoning",
    "honest_mean",
    "make",
    "make_from",
    "names",
    "register",
    "roles",
]
