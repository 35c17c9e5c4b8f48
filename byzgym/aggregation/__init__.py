"""Rules that aggregate submissions, and what every policy is given and gives.

A rule maps submissions [..., n, d] to a vector [..., d]: ``make("krum", num_byzantine=3)(gradients)``. As a
`Policy` it turns a `ServerView` into a `Decision`. A new rule is one small file: subclass `Weighting` (it
gives credits), `Rule` (only a vector) or `ServerRule` (it keeps a memory or reads the QV loss), decorate it
with ``@registry.built_in("name")`` and import it here. From outside the package call `register` with a
factory, which may also make any callable ``gradients -> vector``. `pre` has what stands in front of rules.
"""

from byzgym.aggregation import pre
from byzgym.aggregation.auto_gm import AutoGM
from byzgym.aggregation.bant import AutoBant, Bant
from byzgym.aggregation.base import CallableRule, HonestMajority, Rule, ServerRule, Weighting
from byzgym.aggregation.brute_force import BruteForce
from byzgym.aggregation.bulyan import Bulyan
from byzgym.aggregation.caf import CAF
from byzgym.aggregation.centered_clipping import CenteredClipping
from byzgym.aggregation.cge import CGE
from byzgym.aggregation.clipped_clustering import ClippedClustering
from byzgym.aggregation.coordinatewise import MeanAroundMedian, Median, TrimmedMean
from byzgym.aggregation.dnc import DnC
from byzgym.aggregation.drawing import DrawingRule
from byzgym.aggregation.evidence import reputation
from byzgym.aggregation.faba import FABA
from byzgym.aggregation.fedgreed import FedGreed
from byzgym.aggregation.flame import FLAME
from byzgym.aggregation.fltrust import FLTrust
from byzgym.aggregation.foolsgold import FoolsGold
from byzgym.aggregation.foundation import Foundation
from byzgym.aggregation.gas import GAS
from byzgym.aggregation.geometric_median import GeometricMedian
from byzgym.aggregation.krum import Krum, MultiKrum
from byzgym.aggregation.mean import Mean
from byzgym.aggregation.medoid import Medoid
from byzgym.aggregation.monna import MoNNA
from byzgym.aggregation.norm_clipping import NormClipping
from byzgym.aggregation.per_environment import RulePerEnvironment
from byzgym.aggregation.policy import Decision, NotLinearError, Policy, combine, move_credit
from byzgym.aggregation.qv_only import QVOnly
from byzgym.aggregation.registry import RuleSpec, make, make_for, make_from, names, register
from byzgym.aggregation.rfa import RFA
from byzgym.aggregation.safeguard import Safeguard
from byzgym.aggregation.sign_vote import SignVote
from byzgym.aggregation.signguard import SignGuard
from byzgym.aggregation.smea import SMEA
from byzgym.aggregation.trust import Trust
from byzgym.aggregation.view import ServerView
from byzgym.aggregation.zeno import Zeno, ZenoPlus

__all__ = [
    "CAF",
    "CGE",
    "FABA",
    "FLAME",
    "GAS",
    "RFA",
    "SMEA",
    "AutoBant",
    "AutoGM",
    "Bant",
    "BruteForce",
    "Bulyan",
    "CallableRule",
    "CenteredClipping",
    "ClippedClustering",
    "Decision",
    "DnC",
    "DrawingRule",
    "FLTrust",
    "FedGreed",
    "FoolsGold",
    "Foundation",
    "GeometricMedian",
    "HonestMajority",
    "Krum",
    "Mean",
    "MeanAroundMedian",
    "Median",
    "Medoid",
    "MoNNA",
    "MultiKrum",
    "NormClipping",
    "NotLinearError",
    "Policy",
    "QVOnly",
    "Rule",
    "RulePerEnvironment",
    "RuleSpec",
    "Safeguard",
    "ServerRule",
    "ServerView",
    "SignGuard",
    "SignVote",
    "TrimmedMean",
    "Trust",
    "Weighting",
    "Zeno",
    "ZenoPlus",
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
