"""Rules that aggregate submissions: gradients [..., n, d] -> credits [..., n] or a vector [..., d].

A new rule is one small file: subclass `Weighting` (it gives credits) or `Rule` (only a vector), decorate it
with ``@registry.built_in("name")`` and import it here. From outside the package call `register`, which also
takes any callable ``gradients -> vector``.
"""

from byzgym.aggregation.base import NotLinearError, Rule, Weighting, combine
from byzgym.aggregation.registry import make, make_from, names, register
from byzgym.aggregation.view import ServerView

__all__ = [
    "NotLinearError",
    "Rule",
    "ServerView",
    "Weighting",
    "combine",
    "make",
    "make_from",
    "names",
    "register",
]
