"""A Dirichlet distribution over credits, for the policies of stable-baselines3."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from stable_baselines3.common.distributions import Distribution
from torch import Tensor, nn
from torch.nn import functional

from byzgym.validation import check_real

SMALLEST_CREDIT = 1e-6
"""`log_prob` raises smaller credits to this one, because the density is infinite or zero at zero credit."""
LARGEST_CONCENTRATION = 1e4


class DirichletDistribution(Distribution):
    """Dirichlet distribution over vectors of ``action_dim`` credits on the simplex.

    >>> distribution = DirichletDistribution(2, min_concentration=0.1)
    >>> distribution.proba_distribution(torch.tensor([[0.0, 1.0]])).distribution.concentration
    tensor([[1.1000, 1.8353]])
    >>> distribution.mode()
    tensor([[0.1069, 0.8931]])

    Args:
        action_dim: Number of credits.
        min_concentration: Added to the softplus of the network's output, greater than 0. The smaller it is,
            the closer to zero a credit can be.

    Raises:
        ValueError: If ``min_concentration`` is not a finite number greater than 0.
    """

    distribution: torch.distributions.Dirichlet

    def __init__(self, action_dim: int, min_concentration: float = 0.02) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.min_concentration = check_real("min_concentration", min_concentration, above=0)

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        """A layer from the policy's latent [B, latent_dim] to raw concentrations [B, action_dim]."""
        return nn.Linear(latent_dim, self.action_dim)

    def proba_distribution(self, raw: Tensor) -> Self:
        """Set the concentrations [B, action_dim] to min_concentration + softplus(raw + log(e - 1)).

        All zero is nearly uniform on the simplex.
        """
        concentration = self.min_concentration + functional.softplus(raw + math.log(math.e - 1))
        concentration = concentration.clamp(max=LARGEST_CONCENTRATION)
        self.distribution = torch.distributions.Dirichlet(concentration, validate_args=False)
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log density [B] of credits [B, action_dim]."""
        return self.distribution.log_prob(actions.clamp(SMALLEST_CREDIT, 1.0))

    def entropy(self) -> Tensor:
        """Differential entropy [B]."""
        return self.distribution.entropy()

    def sample(self) -> Tensor:
        """Random credits [B, action_dim] on the simplex."""
        return _on_simplex(self.distribution.sample())

    def mode(self) -> Tensor:
        """Credits proportional to max(concentration - 1, 0), or the mean if no concentration exceeds 1.

        If all concentrations exceed 1, this is the mode. The density is unbounded at zero credit for those
        below 1.
        """
        concentration = self.distribution.concentration
        excess = (concentration - 1).clamp(min=0)
        some = excess.sum(-1, keepdim=True) > 1e-3
        return _on_simplex(torch.where(some, excess, concentration))

    def actions_from_params(self, raw: Tensor, deterministic: bool = False) -> Tensor:
        """Credits for raw [B, action_dim]."""
        return self.proba_distribution(raw).get_actions(deterministic=deterministic)

    def log_prob_from_params(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Random credits for raw [B, action_dim], and their log density [B]."""
        actions = self.actions_from_params(raw)
        return actions, self.log_prob(actions)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the tensors of the last call: tensors of a graph cannot be copied."""
        return {key: value for key, value in vars(self).items() if key != "distribution"}


def _on_simplex(values: Tensor) -> Tensor:
    return values / values.sum(-1, keepdim=True)
