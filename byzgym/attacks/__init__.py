"""Attacks: honest gradients [E, n, d] -> submitted gradients, and role functions, which say who attacks when.

A new attack is one small file: subclass `Attack` (or `DataPoisoning`), decorate it with
``@registry.built_in("name")`` and import it here. From outside the package call `register`, which also takes
a factory of any callable ``(gradients, byzantine, context) -> submitted``.
"""

from byzgym.attacks import roles
from byzgym.attacks.backdoor import (
    Backdoor,
    DistributedBackdoor,
    ModelReplacement,
    Neurotoxin,
    Triggered,
)
from byzgym.attacks.base import Attack, AttackContext, DataPoisoning
from byzgym.attacks.colluding import ALittleIsEnough, InnerProductManipulation, Omniscient, Sybils
from byzgym.attacks.fang import FangKrum, FangTrimmedMean
from byzgym.attacks.history import Mimic, RelocatedOrthogonalPerturbation, Replay
from byzgym.attacks.label_flip import LabelFlip
from byzgym.attacks.leaked_qv import LeakedQV, MissingLabel
from byzgym.attacks.mixture import Mixture
from byzgym.attacks.noise import Gaussian, Noise, RandomFault, Uniform
from byzgym.attacks.norms import AntiClipping
from byzgym.attacks.optimised import MinMax, MinSum
from byzgym.attacks.registry import make, make_from, names, register
from byzgym.attacks.single_worker import NoAttack, NonFinite, OneCoordinate, Scaled, SignFlip, Zero
from byzgym.attacks.transmission import BitFlip, Gambler
from byzgym.numerics.moments import honest_mean, honest_moments, honest_sum

__all__ = [
    "ALittleIsEnough",
    "AntiClipping",
    "Attack",
    "AttackContext",
    "Backdoor",
    "BitFlip",
    "DataPoisoning",
    "DistributedBackdoor",
    "FangKrum",
    "FangTrimmedMean",
    "Gambler",
    "Gaussian",
    "InnerProductManipulation",
    "LabelFlip",
    "LeakedQV",
    "Mimic",
    "MinMax",
    "MinSum",
    "MissingLabel",
    "Mixture",
    "ModelReplacement",
    "Neurotoxin",
    "NoAttack",
    "Noise",
    "NonFinite",
    "Omniscient",
    "OneCoordinate",
    "RandomFault",
    "RelocatedOrthogonalPerturbation",
    "Replay",
    "Scaled",
    "SignFlip",
    "Sybils",
    "Triggered",
    "Uniform",
    "Zero",
    "honest_mean",
    "honest_moments",
    "honest_sum",
    "make",
    "make_from",
    "names",
    "register",
    "roles",
]
