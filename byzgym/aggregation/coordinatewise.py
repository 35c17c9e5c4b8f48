"""Rules that treat each coordinate by itself, from its order statistics. None of them has credits."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from byzgym.aggregation.base import HonestMajority
from byzgym.numerics.order_statistics import run_program
from byzgym.numerics.sorting_networks import (
    Program,
    mean_around_median_program,
    median_program,
    trimmed_mean_program,
)
from byzgym.aggregation.registry import registry
from byzgym.validation import check_bool


class CoordinateWise(HonestMajority):
    """A rule that acts on every coordinate alone.

    Args:
        num_byzantine: The number f of values in each coordinate to guard against, n >= 2f + 1.
        compiled: Whether to run through `torch.compile`, which takes seconds to minutes for each number of
            workers, needs a C++ compiler and Python's headers on the CPU, and is several times faster from
            then on.
    """

    def __init__(self, num_byzantine: int = 0, compiled: bool = False) -> None:
        super().__init__(num_byzantine)
        self.compiled = check_bool("compiled", compiled)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return run_program(self._program(gradients.shape[-2]), gradients, self.compiled)

    @abstractmethod
    def _program(self, num_workers: int) -> Program:
        """What to compute from the n values of a coordinate."""


@registry.built_in("median")
class Median(CoordinateWise):
    """The marginal median: in each coordinate the median, for even n the midpoint of the middle two.

    Source: Xie, Koyejo and Gupta, "Generalized Byzantine-tolerant SGD", Definition 7. It makes no use of
    ``num_byzantine`` but for its condition n >= 2f + 1.
    """

    def _program(self, num_workers: int) -> Program:
        return median_program(num_workers)


@registry.built_in("trimmed_mean")
class TrimmedMean(CoordinateWise):
    """In each coordinate the mean without the f largest and the f smallest values, n >= 2f + 1.

    Source: Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    Definition 2. The kept values are added; nothing is subtracted from a sum that outliers have spoiled.
    """

    def _program(self, num_workers: int) -> Program:
        return trimmed_mean_program(num_workers, self.num_byzantine)


@registry.built_in("mean_around_median")
class MeanAroundMedian(CoordinateWise):
    """In each coordinate the mean of the n - f values nearest the median, n >= 2f + 1.

    Of two values equally far from the median on opposite sides, the smaller one counts as the nearer. The
    median is a number of the submissions' type: for even n the midpoint is rounded, and with it distances.
    Source: Xie, Koyejo and Gupta, "Generalized Byzantine-tolerant SGD", Definition 8.
    """

    def _program(self, num_workers: int) -> Program:
        return mean_around_median_program(num_workers, num_workers - self.num_byzantine)
