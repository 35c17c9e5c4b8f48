"""Rules that aggregate submissions: gradients [..., n, d] -> credits [..., n] or a vector [..., d].

A new rule is one small file: subclass `Weighting` (it gives credits) or `Rule` (only a vector), decorate it
with ``@registry.built_in("name")`` and import it here. From outside the package call `register` with a
factory, which may also make any callable ``gradients -> vector``.
"""

from byzgym.aggregation.base import NotLinearError, Rule, Weighting, combine
from byzgym.aggregation.bulyan import Bulyan
from byzgym.aggregation.norm_clipping import NormClipping
from byzgym.aggregation.coordinatewise import MeanAroundMedian, Median, TrimmedMean
from byzgym.aggregation.faba import FABA
from byzgym.aggregation.geometric_median import GeometricMedian, Medoid
from byzgym.aggregation.krum import Krum, MultiKrum
from byzgym.aggregation.mean import Mean
from byzgym.aggregation.brute_force import BruteForce
from byzgym.aggregation.registry import largest_byzantine, make, make_from, names, register
from byzgym.aggregation.serving import (
    accepted,
    apply_to_view,
    checked_credits,
    checked_update,
    credits_for_view,
    make_within,
)
from byzgym.aggregation.several import RuleOfEach
from byzgym.aggregation.view import ServerView

__all__ = [
    "FABA",
    "BruteForce",
    "Bulyan",
    "GeometricMedian",
    "Krum",
    "Mean",
    "MeanAroundMedian",
    "Median",
    "Medoid",
    "MultiKrum",
    "NormClipping",
    "NotLinearError",
    "Rule",
    "RuleOfEach",
    "ServerView",
    "TrimmedMean",
    "Weighting",
    "accepted",
    "apply_to_view",
    "checked_credits",
    "checked_update",
    "combine",
    "credits_for_view",
    "largest_byzantine",
    "make",
    "make_from",
    "make_within",
    "names",
    "register",
]
