"""PPO with a permutation-equivariant policy on the default environment. Results: agents/README.md.

Usage: python agents/ppo.py --out runs/ppo
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import tyro
from recipe import Recipe, run


@dataclass
class Config(Recipe):
    """Train PPO on ByzantineAggregation-v0 and compare it with controls on the same evaluation seeds."""

    name: ClassVar[str] = "ppo"

    policy: Literal["gaussian", "dirichlet"] = "gaussian"
    """Gaussian logits with a softmax, or credits drawn from a Dirichlet distribution."""
    log_std_init: float = -1.0
    """Logarithm of the Gaussian's initial standard deviation."""
    learning_rate: float = 1e-3
    """Initial learning rate. It falls linearly to zero."""
    n_steps: int = 20
    """Rounds per environment and update."""
    batch_size: int = 640
    """Samples per gradient step."""
    n_epochs: int = 4
    """Passes over the samples of an update."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""

    @property
    def softmax(self) -> float | None:
        """Inverse temperature for the environment; None if the actions are credits."""
        return self.beta if self.policy == "gaussian" else None

    def settings(self) -> dict[str, Any]:
        """The settings of PPO."""
        gaussian = self.policy == "gaussian"
        return {
            "policy": "EquivariantPolicy" if gaussian else "EquivariantDirichletPolicy",
            "policy_kwargs": {"log_std_init": self.log_std_init} if gaussian else {},
            "learning_rate": f"lin_{self.learning_rate}",
            "n_steps": self.n_steps,
            "batch_size": self.batch_size,
            "n_epochs": self.n_epochs,
            "gamma": self.gamma,
            "ent_coef": self.ent_coef,
        }


if __name__ == "__main__":
    run(tyro.cli(Config))
