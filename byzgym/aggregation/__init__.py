"""Rules that aggregate submissions, and what every policy is given and gives.

A rule maps submissions [..., n, d] to a vector [..., d]: ``make("krum", num_byzantine=3)(gradients)``. As a
`Policy` it turns a `ServerView` into a `Decision`. A new rule is one small file: subclass `Weighting` (it
gives credits), `Rule` (only a vector) or `ServerRule` (it keeps a memory or reads the QV loss), decorate it
with ``@registry.built_in("name")`` and import it here. From outside the package call `register` with a
factory, which may also make any callable ``gradients -> vector``. `pre` has what stands in front of rules.
"""

from byzgym.aggregation import pre
from byzgym.aggregation.base import CallableRule, HonestMajority, Rule, ServerRule, Weighting
from byzgym.aggregation.brute_force import BruteForce
from byzgym.aggregation.bulyan import Bulyan
from byzgym.aggregation.coordinatewise import MeanAroundMedian, Median, TrimmedMean
from byzgym.aggregation.faba import FABA
from byzgym.aggregation.geometric_median import GeometricMedian
from byzgym.aggregation.krum import Krum, MultiKrum
from byzgym.aggregation.mean import Mean
from byzgym.aggregation.medoid import Medoid
from byzgym.aggregation.norm_clipping import NormClipping
from byzgym.aggregation.per_environment import RulePerEnvironment
from byzgym.aggregation.policy import Decision, NotLinearError, Policy, combine, move_credit
from byzgym.aggregation.registry import RuleSpec, make, make_for, make_from, names, register
from byzgym.aggregation.trust import Trust, reputation
from byzgym.aggregation.view import ServerView

__all__ = [
    "FABA",
    "BruteForce",
    "Bulyan",
    "CallableRule",
    "Decision",
    "GeometricMedian",
    "HonestMajority",
    "Krum",
    "Mean",
    "MeanAroundMedian",
    "Median",
    "Medoid",
    "MultiKrum",
    "NormClipping",
    "NotLinearError",
    "Policy",
    "Rule",
    "RulePerEnvironment",
    "RuleSpec",
    "ServerRule",
    "ServerView",
    "TrimmedMean",
    "Trust",
    "Weighting",
    "combine",
    "make",
    "make_for",
    "make_from",
    "move_credit",
    "names",
    "pre",
    "register",
    "reputation",
]
