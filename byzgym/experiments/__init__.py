"""Comparisons of policies under attacks.

`Comparison` says what is compared, and `compare` plays it. Every finished run goes to the `store` of a
folder, from which `results.Results` are read and shown by `report`. What needs pandas and matplotlib is
imported when it is used, so that the command line starts quickly.
"""

from typing import TYPE_CHECKING, Any

from byzgym.experiments.config import Comparison

if TYPE_CHECKING:
    from byzgym.experiments.grid import compare

__all__ = ["Comparison", "compare"]


def __getattr__(name: str) -> Any:
    if name != "compare":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from byzgym.experiments.grid import compare

    return compare
