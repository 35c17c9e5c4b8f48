"""Pre-aggregators: they turn submissions into others before a rule acts.

Any number of them stands in front of any rule, in any order: ``aggregation.make("nnm+bucketing:size=2+krum",
num_byzantine=2)``, or ``{"name": "krum", "pre": ["nnm", {"name": "bucketing", "size": 2}]}``. A new one
subclasses `PreAggregator`, `Mixing` or `Scaling`, is decorated with ``@registry.built_in("name")`` and
imported here. From outside the package call `register` with a factory, which may also make any callable that
maps submissions [..., n, d] to as many rows.
"""

from byzgym.aggregation.pre.base import CallablePreAggregator, Mixing, PreAggregator, Scaling
from byzgym.aggregation.pre.chain import Chain
from byzgym.aggregation.pre.composed import compose
from byzgym.aggregation.pre.groups import Bucketing, SecureGroups
from byzgym.aggregation.pre.nnm import NNM
from byzgym.aggregation.pre.norms import ARC, Normalize, StaticClipping
from byzgym.aggregation.pre.registry import PreSpec, make, make_from, names, register

__all__ = [
    "ARC",
    "NNM",
    "Bucketing",
    "CallablePreAggregator",
    "Chain",
    "Mixing",
    "Normalize",
    "PreAggregator",
    "PreSpec",
    "Scaling",
    "SecureGroups",
    "StaticClipping",
    "compose",
    "make",
    "make_from",
    "names",
    "register",
]
