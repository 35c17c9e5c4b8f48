"""Attacks of colluding workers: all submit the same vector, or nearly so, made of the honest gradients."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import torch
from torch import Tensor

from byzgym.attacks.base import Attack, AttackContext
from byzgym.attacks.line_search import EVALUATIONS, worst_along
from byzgym.attacks.noise import Gaussian
from byzgym.attacks.registry import registry
from byzgym.numerics.distances import row_norms
from byzgym.numerics.moments import at_least_single, honest_mean, honest_moments, honest_sum
from byzgym.validation import check_bool, check_choice, check_int, check_real

UNDEFINED_Z = 1.5
"""alie's z where the formula gives none: the constant in the authors' code and in ByzFL."""
FORMULAS = ("paper", "all_workers")


@registry.built_in("omniscient")
class Omniscient(Attack):
    """Omniscient attack of Xie et al. 2018, "Generalized Byzantine-tolerant SGD"
    (https://arxiv.org/abs/1802.10116). Byzantine workers submit ``-factor`` times the sum of the honest
    gradients.

    See section 5.3. A product too large for its type becomes infinite, and the server rejects it. The
    attackers know all honest gradients.

    Args:
        factor: Greater than 0.

    Example:
        >>> gradients = torch.tensor([[[1.0, -2.0], [3.0, 4.0], [0.0, 0.0]]])
        >>> byzantine = torch.tensor([[False, False, True]])
        >>> Omniscient(factor=10)(gradients, byzantine, AttackContext.standalone(gradients))[0, 2]
        tensor([-40., -20.])
    """

    reads_own = False

    def __init__(self, factor: float = 1e20) -> None:
        self.factor = check_real("factor", factor, above=0)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, 1, d]; see `Attack.corrupt`."""
        return (honest_sum(gradients, byzantine) * -self.factor)[:, None]


@registry.built_in("ipm")
class InnerProductManipulation(Attack):
    """Inner product manipulation of Xie et al. 2020, "Fall of empires" (https://arxiv.org/abs/1903.03936).
    Byzantine workers submit ``-epsilon`` times the mean of the honest gradients.

    With a small epsilon they stay close to the honest gradients, and the inner product of the aggregate and
    the true gradient may still become negative. Other code uses 0.5 (BANT), 1.0 (Blades, ByzPy), 2.0 (ByzFL),
    0.2 (CRYPTO-KU) or 0.1 (ByzantineMomentum, as "factor 1.1").

    With ``optimize=True`` a line search finds, in each round, the epsilon with which the server's rule ends
    up farthest from the honest mean. It begins at -1, where they submit the honest mean, as in
    ByzantineMomentum. ByzFL's Opt-IPM begins at 0, where they submit zero. The search takes the time of
    ``evaluations`` aggregations. The attackers know all honest gradients, and with ``optimize=True`` the
    rule.

    Args:
        epsilon: At least 0. It has no effect with ``optimize=True``.
        optimize: Whether to search for epsilon.
        evaluations: How often the search tries out the rule in a round, at least 1.

    Example:
        >>> gradients = torch.tensor([[[1.0, -2.0], [3.0, 4.0], [0.0, 0.0]]])
        >>> byzantine = torch.tensor([[False, False, True]])
        >>> InnerProductManipulation(0.5)(gradients, byzantine, AttackContext.standalone(gradients))[0, 2]
        tensor([-1.0000, -0.5000])
    """

    reads_own = False

    def __init__(self, epsilon: float = 0.5, optimize: bool = False, evaluations: int = EVALUATIONS) -> None:
        self.epsilon = check_real("epsilon", epsilon, low=0)
        self.optimize = check_bool("optimize", optimize)
        self.evaluations = check_int("evaluations", evaluations, low=1)
        self.knowledge = frozenset({"rule"} if optimize else ())

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, 1, d]; see `Attack.corrupt`."""
        if not self.optimize:
            return (honest_mean(gradients, byzantine) * -self.epsilon)[:, None]
        mean = honest_mean(at_least_single(gradients), byzantine)
        return worst_along(-mean, mean, gradients, byzantine, context, self.evaluations)[:, None]


@registry.built_in("alie")
class ALittleIsEnough(Attack):
    """ALIE of Baruch et al. 2019, "A little is enough" (https://arxiv.org/abs/1902.06156). Byzantine workers
    submit ``mean - z * std`` of the honest gradients in each coordinate.

    Here ``std`` divides by the number of honest workers, as in the authors' code. The paper estimates both
    from the workers it controls; here, as in later work, they come from the honest ones.

    For n workers, m of them Byzantine, the paper has ``z = Phi^-1((n - m - s) / (n - m))`` with
    ``s = floor(n / 2 + 1) - m``; Blades, FLPoison and the code of EPFL's MLO have it, too. ByzPy, krum and
    BANT have ``z = Phi^-1((n - s) / n)``, the formula "all_workers". If the argument is not between 0 and 1,
    as under a Byzantine majority, z is 1.5 instead (BANT takes 0, ByzPy an s of at least 1). With few
    Byzantine workers the paper's z is not positive: with n = 10 it is -0.14 for m = 1 and 0 for m = 2. Then
    the attack helps or does nothing; ``min_z`` sets a floor. The authors' code has z = 1.5 throughout; ByzFL
    and ByzantineMomentum have it, too.

    Some add ``z * std`` in place of subtracting it, which is a negative z here: ByzFL, ByzantineMomentum
    (unless told otherwise), Blades, FLPoison, ByzPy and BANT. ByzFL, ByzantineMomentum, Blades and BANT
    divide by one less in ``std``.

    With ``optimize=True`` a line search finds, in each round, the z from 0 upwards with which the server's
    rule ends up farthest from the honest mean. ByzantineMomentum and ByzFL (Opt-ALIE) search in the same way,
    but for what to add. It takes the time of ``evaluations`` aggregations. The attackers know all honest
    gradients, and with ``optimize=True`` the rule.

    Args:
        z: Any finite number; None for that of the formula in each environment. It has no effect with
            ``optimize=True``, nor have ``min_z`` and ``formula``.
        min_z: Where z is smaller, this is used instead. Any finite number; None for no floor.
        formula: "paper" or "all_workers".
        optimize: Whether to search for z.
        evaluations: How often the search tries out the rule in a round, at least 1.

    Example:
        >>> gradients = torch.tensor([[[1.0, -2.0], [3.0, 4.0], [0.0, 0.0]]])
        >>> byzantine = torch.tensor([[False, False, True]])
        >>> ALittleIsEnough(z=2)(gradients, byzantine, AttackContext.standalone(gradients))[0, 2]
        tensor([ 0., -5.])
    """

    reads_own = False

    def __init__(
        self,
        z: float | None = None,
        min_z: float | None = None,
        formula: str = "paper",
        optimize: bool = False,
        evaluations: int = EVALUATIONS,
    ) -> None:
        self.z = None if z is None else check_real("z (unless None)", z)
        self.min_z = None if min_z is None else check_real("min_z (unless None)", min_z)
        self.formula: str = check_choice("formula", formula, FORMULAS)
        self.optimize = check_bool("optimize", optimize)
        self.evaluations = check_int("evaluations", evaluations, low=1)
        self.knowledge = frozenset({"rule"} if optimize else ())

    def effective_z(self, num_workers: int, num_byzantine: int) -> float:
        """The z that is used among ``num_workers`` workers if ``num_byzantine`` of them are Byzantine.

        With ``optimize=True`` the search finds one instead.

        Raises:
            ValueError: If ``num_byzantine`` is not from 0 to ``num_workers``.

        Example:
            >>> round(ALittleIsEnough().effective_z(10, 1), 2)
            -0.14
            >>> ALittleIsEnough(min_z=0.5).effective_z(10, 1)
            0.5
        """
        check_int("num_byzantine", num_byzantine, low=0, high=num_workers)
        z = _z_of(self.formula, num_workers, num_byzantine) if self.z is None else self.z
        return z if self.min_z is None else max(z, self.min_z)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, 1, d]; see `Attack.corrupt`."""
        if self.optimize:
            mean, std = honest_moments(at_least_single(gradients), byzantine)
            return worst_along(-std, mean, gradients, byzantine, context, self.evaluations)[:, None]
        mean, std = honest_moments(gradients, byzantine)
        return (mean - self.z_of(byzantine, mean.dtype)[:, None] * std)[:, None]

    def z_of(self, byzantine: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """`effective_z` of each environment, shape [E], for who is Byzantine, bool [E, n]."""
        num_workers = byzantine.shape[1]
        z_of = [self.effective_z(num_workers, num_byzantine) for num_byzantine in range(num_workers + 1)]
        return torch.tensor(z_of, dtype=dtype, device=byzantine.device)[byzantine.sum(-1)]


@registry.built_in("sybils")
class Sybils(Attack):
    """Sybils, in the sense of Fung et al. 2020, "The limitations of federated learning in sybil settings"
    (FoolsGold; https://arxiv.org/abs/1808.04866). Byzantine workers submit near copies of one row, as if one
    attacker had many names: the reversed honest mean, each with a little noise of its own.

    Each submits ``-scale * (mean + noise * r * N(0, 1))``, where r is the root mean square entry of the mean.
    FoolsGold, which trusts workers less the more they resemble others, is made against such workers. The
    attackers know all honest gradients.

    Args:
        scale: At least 0.
        noise: At least 0, relative to the mean. With 0 they do what ``ipm`` does with epsilon ``scale``.

    Example:
        >>> gradients = torch.tensor([[[1.0, -2.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]])
        >>> byzantine = torch.tensor([[False, False, True, True]])
        >>> sent = Sybils()(gradients, byzantine, AttackContext.standalone(gradients))
        >>> sent[0, 2:].round(decimals=1)
        tensor([[-2., -1.],
                [-2., -1.]])
        >>> torch.equal(sent[0, 2], sent[0, 3])
        False
    """

    reads_own = False

    def __init__(self, scale: float = 1.0, noise: float = 0.01) -> None:
        self.scale = check_real("scale", scale, low=0)
        self.noise = check_real("noise", noise, low=0)
        self._normal = Gaussian(0, 1)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, n, d], zero in honest rows; see `Attack.corrupt`."""
        mean = honest_mean(gradients, byzantine)
        spread = (row_norms(mean) * (self.noise / math.sqrt(mean.shape[1]))).to(mean.dtype)  # [E]
        env = byzantine.nonzero()[:, 0]
        rows = self._normal.rows(gradients, byzantine, context).mul_(spread[env, None]).add_(mean[env])
        submitted = torch.zeros_like(gradients)
        submitted[byzantine] = rows.mul_(-self.scale)
        return submitted


@lru_cache(maxsize=1 << 15)  # cohorts may have any number of Byzantine workers
def _z_of(formula: str, num_workers: int, num_byzantine: int) -> float:
    honest = num_workers - num_byzantine
    supporters = num_workers // 2 + 1 - num_byzantine
    among = honest if formula == "paper" else num_workers
    if not 0 < among - supporters < among:
        return UNDEFINED_Z
    return NormalDist().inv_cdf((among - supporters) / among)
