"""SAC with a permutation-equivariant policy on the default environment. Results: agents/README.md.

Usage: python agents/sac.py --out runs/sac
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import tyro
from recipe import Recipe, run


@dataclass
class Config(Recipe):
    """Train SAC on ByzantineAggregation-v0 and compare it with controls on the same evaluation seeds."""

    name: ClassVar[str] = "sac"

    total_steps: int = 30_000
    """Rounds of training per seed, over all environments."""
    evaluate_every: int = 10_240
    """Rounds of training between evaluations."""
    gamma: float = 0.5
    """Discount factor. Most of what credits do shows in the same round."""
    net_arch: tuple[int, ...] = (32, 32)
    """Sizes of the hidden layers of actor and critic."""
    n_critics: int = 1
    """Critics, of which the smallest value counts."""
    log_std_init: float = -1.0
    """Logarithm of the Gaussian's initial standard deviation, before the tanh."""
    learning_rate: float = 1e-3
    """Initial learning rate. It falls linearly to zero."""
    learning_starts: int = 640
    """Rounds with random credits before the first gradient step."""
    gradient_steps: int = 4
    """Gradient steps after a round of all environments."""
    batch_size: int = 256
    """Samples per gradient step."""
    buffer_size: int = 100_000
    """Rounds in the replay buffer."""
    tau: float = 0.01
    """How far the target critic follows the critic in a gradient step."""
    ent_coef: str = "auto_0.0001"
    """Weight of the entropy bonus, learned from this first value on; rewards are small, near 0.01 a round."""

    def settings(self) -> dict[str, Any]:
        """The settings of SAC."""
        return {
            "policy": "EquivariantSACPolicy",
            "policy_kwargs": {
                "net_arch": list(self.net_arch),
                "n_critics": self.n_critics,
                "log_std_init": self.log_std_init,
                "softmax_beta": self.beta,
            },
            "learning_rate": f"lin_{self.learning_rate}",
            "learning_starts": self.learning_starts,
            "gradient_steps": self.gradient_steps,
            "batch_size": self.batch_size,
            "buffer_size": self.buffer_size,
            "tau": self.tau,
            "gamma": self.gamma,
            "ent_coef": self.ent_coef,
        }


if __name__ == "__main__":
    run(tyro.cli(Config))
