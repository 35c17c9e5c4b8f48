"""Comparisons of policies under attacks.

`config.Comparison` says what is compared, `play.compare` plays it, `results.Results` holds the files and
`report` shows them. Only the configuration is imported here, so that the command line starts without pandas
and matplotlib.
"""

from byzgym.experiments.config import Comparison

__all__ = ["Comparison"]
