"""`byzgym train`, and the arguments that it shares with `byzgym evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from byzgym import files
from byzgym.cli.terminal import Terminal, mistakes
from byzgym.experiments.config import arguments, command, options
from byzgym.simulation.config import SimulationConfig
from byzgym.validation import check_int

Algorithm = Literal["ppo", "a2c", "sac", "td3"]


@dataclass(frozen=True, kw_only=True)
class Episodes(SimulationConfig):
    """The environment of one policy."""

    observation: tuple[str, ...] = ("norms", "similarity", "trust")
    """Parts of the observation; these tell a policy more than the environment's default, pooled."""

    def environment_arguments(self) -> dict[str, Any]:
        """The keyword arguments of the environment."""
        # A single part is a Dict, too: learners know the parts by their names.
        alone = self.observation in (("pooled",), ("all",))
        observation = self.observation[0] if alone else list(self.observation)
        return arguments(self, Episodes) | {"observation": observation}


@dataclass(frozen=True, kw_only=True)
class Train(Episodes):
    """Train a stable-baselines3 agent.

    ppo and a2c have the permutation-equivariant policy, sac and td3 an MLP on its features. The settings of
    ppo are those of agents/ppo.py.
    """

    algorithm: Algorithm = "ppo"
    """The learner."""
    steps: int = 150_000
    """Environment steps in all."""
    num_envs: int = 64
    """Environments side by side."""
    seed: int = 0
    """Of the learner and of its environments."""
    out: Path = Path("byzgym-agent")
    """Folder for model.zip."""
    overwrite: bool = False
    """Replace a model that the folder holds."""

    def run(self, terminal: Terminal) -> None:
        """Train and save."""
        from byzgym.integrations.sb3 import training

        path = self.out / "model.zip"
        with mistakes():
            steps = check_int("steps", self.steps, low=1)
            model = training.make(self.algorithm, self.num_envs, self.seed, self.environment_arguments())
        with mistakes(OSError), files.lock(self.out):
            if path.exists() and not self.overwrite:
                raise FileExistsError(
                    f"{path} exists; choose another folder (--out) or replace it (--overwrite)"
                )
            with terminal.progress(steps) as advance:
                training.learn(model, steps, lambda done: advance(self.algorithm, done))
            with files.write_whole(path) as temporary:
                model.save(temporary)
        words = ["--model-path", str(path), "--algorithm", self.algorithm, *options(self, Episodes)]
        evaluate = command(terminal.imports, "evaluate", *words)
        terminal.console.print(f"{path}; `{evaluate}` plays it", soft_wrap=True)
