"""Comparisons of policies under attacks.

`Comparison` says what is compared, `compare` plays it, `results.Results` holds the files, and `report` shows
them. What needs pandas and matplotlib is imported when it is used, so that the command line starts quickly.
"""

from typing import TYPE_CHECKING, Any

from byzgym.experiments.config import Comparison

if TYPE_CHECKING:
    from byzgym.experiments.play import compare

__all__ = ["Comparison", "compare"]


def __getattr__(name: str) -> Any:
    if name != "compare":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from byzgym.experiments.play import compare

    return compare
