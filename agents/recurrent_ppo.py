"""RecurrentPPO of sb3-contrib, whose memory replaces the running means. Results: agents/README.md.

Usage: pip install 'byzgym[train]' && python agents/recurrent_ppo.py --out runs/recurrent_ppo
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import tyro
from recipe import Recipe, run


@dataclass
class Config(Recipe):
    """Train RecurrentPPO on ByzantineAggregation-v0 and compare it with controls on the same seeds."""

    name: ClassVar[str] = "recurrent_ppo"

    evaluate_every: int = 51_200
    """Rounds of training between evaluations."""
    observation: tuple[str, ...] = ("similarity", "trust", "relative_norms", "age")
    """Parts of the observation, all of this round: the LSTM remembers."""
    lstm_hidden_size: int = 16
    """Numbers that the LSTM remembers of each worker."""
    log_std_init: float = -1.0
    """Logarithm of the Gaussian's initial standard deviation."""
    learning_rate: float = 3e-3
    """Initial learning rate. It falls linearly to zero."""
    n_steps: int = 20
    """Rounds per environment and update."""
    batch_size: int = 640
    """Samples per gradient step."""
    n_epochs: int = 4
    """Passes over the samples of an update."""

    def settings(self) -> dict[str, Any]:
        """The settings of RecurrentPPO."""
        return {
            "policy": "EquivariantLstmPolicy",
            "policy_kwargs": {"log_std_init": self.log_std_init, "lstm_hidden_size": self.lstm_hidden_size},
            "learning_rate": f"lin_{self.learning_rate}",
            "n_steps": self.n_steps,
            "batch_size": self.batch_size,
            "n_epochs": self.n_epochs,
            "gamma": self.gamma,
        }


if __name__ == "__main__":
    run(tyro.cli(Config))
