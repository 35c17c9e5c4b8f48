"""Rules that treat each coordinate by itself, from its order statistics. None of them has credits."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from byzgym.aggregation.base import EQUIVARIANT, HonestMajority
from byzgym.aggregation.registry import registry
from byzgym.numerics.order_statistics import run_program
from byzgym.numerics.sorting_networks import (
    Program,
    mean_around_median_program,
    median_program,
    trimmed_mean_program,
)
from byzgym.validation import check_bool


class CoordinateWise(HonestMajority):
    """A rule that acts on every coordinate alone; not differentiable: results are detached.

    Args:
        num_byzantine: The number f of Byzantine workers to expect.
        compiled: Whether to run through `torch.compile`, which is several times faster after a first call of
            seconds to minutes for each number of workers. On the CPU it needs a C++ compiler and Python's
            headers.
    """

    differentiable: ClassVar[bool] = False
    claims: ClassVar[frozenset[str]] = EQUIVARIANT | {"breakdown", "dimensional"}

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
    """The marginal median of Xie, Koyejo and Gupta 2018, "Generalized Byzantine-tolerant SGD"
    (https://arxiv.org/abs/1802.10116). It takes the median of each coordinate.

    This is their definition 7. For even n it is the midpoint of the middle two, as in ByzFL, krum and Flower
    (the lower of the two in ByzPy, FedML and Garfield).

    Condition: n >= 2f + 1. Cost: n log(n)^2 d. Not differentiable. Arguments: see `CoordinateWise`.

    Example:
        >>> import torch
        >>> Median()(torch.tensor([[1.0, -2.0], [7.0, 0.0], [2.0, 5.0], [4.0, 1.0]]))
        tensor([3.0000, 0.5000])
    """

    uses_num_byzantine: ClassVar[bool] = False

    def _program(self, num_workers: int) -> Program:
        return median_program(num_workers)


@registry.built_in("trimmed_mean")
class TrimmedMean(CoordinateWise):
    """The trimmed mean of Yin, Chen, Ramchandran and Bartlett 2018, "Byzantine-Robust Distributed Learning:
    Towards Optimal Statistical Rates" (https://arxiv.org/abs/1803.01498). It averages each coordinate without
    its f largest and f smallest values.

    Only the kept values are added: subtracting outliers from a sum, as Blades does,
    would leave their rounding error.

    Condition: n >= 2f + 1. Cost: n log(n)^2 d. Not differentiable. Arguments: see `CoordinateWise`.

    Example:
        >>> import torch
        >>> TrimmedMean(num_byzantine=1)(torch.tensor([[1.0], [-9.0], [2.0], [6.0], [1e9]]))
        tensor([3.])
    """

    def _program(self, num_workers: int) -> Program:
        return trimmed_mean_program(num_workers, self.num_byzantine)


@registry.built_in("mean_around_median")
class MeanAroundMedian(CoordinateWise):
    """The mean around the median (MeaMed) of Xie, Koyejo and Gupta 2018, "Generalized Byzantine-tolerant SGD"
    (https://arxiv.org/abs/1802.10116). It averages, in each coordinate, the n - f values nearest to the
    median.

    This is their definition 8. Of two values equally far from the median on opposite sides, the smaller
    counts as the nearer. For even n the median is rounded to the type of the submissions.

    Condition: n >= 2f + 1. Cost: n log(n)^2 d. Not differentiable. Arguments: see `CoordinateWise`.

    Example:
        >>> import torch
        >>> MeanAroundMedian(num_byzantine=2)(torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]]))
        tensor([1.])
    """

    def _program(self, num_workers: int) -> Program:
        return mean_around_median_program(num_workers, num_workers - self.num_byzantine)
