"""The commands that play the Gymnasium environment: `byzgym train` and `byzgym evaluate`."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from byzgym.experiments.comparison import Setting, flags
from byzgym.experiments.files import prepare
from byzgym.experiments.terminal import mistakes, progress
from byzgym.validation import check_int

if TYPE_CHECKING:
    import gymnasium

    from byzgym.experiments.evaluate import Predict

Algorithm = Literal["ppo", "a2c", "sac", "td3"]

_ALONE = (("pooled",), ("all",))


@dataclass(frozen=True, kw_only=True)
class Episodes(Setting):
    """The environment of one policy."""

    attack: tuple[str, ...] = ("gaussian", "sign_flip", "ipm", "alie", "random")
    """Attacks, one of which is drawn at each reset."""
    num_byzantine: int = 7
    """Number f of Byzantine workers, less than the number of workers."""
    rounds: int = 100
    """Rounds per episode."""
    observation: tuple[str, ...] = ("norms", "similarity", "trust")
    """Parts of the observation; these tell a policy more than the environment's default, pooled."""

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of the environment."""
        from byzgym import specs

        return {
            **self.environment(),
            "attack": [specs.parse(text) for text in self.attack],
            "num_byzantine": self.num_byzantine,
            # A single part as a Dict, too: learners know the parts by their names.
            "observation": self.observation[0] if self.observation in _ALONE else list(self.observation),
        }


@dataclass(frozen=True, kw_only=True)
class Evaluate(Episodes):
    """Play episodes of the Gymnasium environment with one policy."""

    policy: str | None = None
    """A rule or another agent, such as krum; gaa where neither a policy nor a model is given."""
    model_path: Path | None = None
    """A model saved by `byzgym train` or stable-baselines3, instead of a policy. Actions that may be below
    0 are taken for logits, of which a softmax (--softmax-beta) makes credits, others for credits.
    Observations are not normalised: a model trained in VecNormalize is not played as in its training."""
    algorithm: Algorithm | None = None
    """What made that model; ppo where not given."""
    softmax_beta: float | None = None
    """Inverse temperature of the softmax that turns the model's logits into credits, as in its training; 10,
    which `byzgym train` uses, where not given."""
    episodes: int = 5
    """Number of episodes, at least 1."""
    seed: int = 0
    """Episode i is reset with seed + i."""
    render: Literal["none", "ansi", "human"] = "none"
    """Show ten frames an episode."""

    def run(self, console: Console) -> None:
        """Play and tabulate."""
        from byzgym.experiments import evaluate

        shown = None if self.render == "none" else self.render
        with mistakes():
            self._check_policy()
            env = evaluate.make_environment(self.arguments(), shown)
            env, predict = self._with_policy(env, console)
            check_int("episodes", self.episodes, low=1)
            env.reset(seed=check_int("seed", self.seed, low=0))
        show = None if shown is None else partial(_show_frame, console)
        with mistakes(ValueError, RuntimeError):
            table = evaluate.evaluate(env, predict, self.episodes, self.seed, show)
        env.close()
        console.print(table.to_string(index=False, float_format="{:.3f}".format), highlight=False)
        for column in ("return", "accuracy"):
            mean, std = table[column].mean(), table[column].std()
            spread = f" ± {std:.3f}" if len(table) > 1 else ""
            console.print(f"{column}: {mean:.3f}{spread}", highlight=False)

    def _check_policy(self) -> None:
        if self.model_path is not None and self.policy is not None:
            raise ValueError(f"either --policy or --model-path, not both: {self.policy}, {self.model_path}")
        for option, value in (("algorithm", self.algorithm), ("softmax-beta", self.softmax_beta)):
            if self.model_path is None and value is not None:
                raise ValueError(f"--{option} {value} is for the model of --model-path, which is missing")

    def _with_policy(
        self, env: gymnasium.Env[Any, Any], console: Console
    ) -> tuple[gymnasium.Env[Any, Any], Predict]:
        from byzgym.experiments import evaluate
        from byzgym.experiments.policies import is_reference

        if self.model_path is None:
            policy = "gaa" if self.policy is None else self.policy
            predict, told = evaluate.policy_by_name(policy, env)
            if is_reference(policy):
                console.print(f"{policy} is a reference: it sees more than a server would", highlight=False)
            if told is not None:
                console.print(f"{told.policy} is {told}", highlight=False)
            return env, predict
        from byzgym.experiments.training import load

        model, env = load(self.model_path, self.algorithm or "ppo", env, self.softmax_beta)
        return env, model.predict


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

    def run(self, console: Console) -> None:
        """Train and save."""
        from byzgym.experiments import training

        path = self.out / "model.zip"
        with mistakes():
            training.claim(path, self.overwrite)
            steps = check_int("steps", self.steps, low=1)
            model = training.make(self.algorithm, self.num_envs, self.seed, self.arguments())
            prepare(self.out)
        with progress(console, steps) as advance:
            training.learn(model, steps, lambda done: advance(self.algorithm, done))
        with mistakes(OSError, RuntimeError):  # torch raises the second where a disk is full
            model.save(path)
        words = ["--model-path", str(path), "--algorithm", self.algorithm]
        words += flags(self, dataclasses.fields(Episodes))
        console.print(f"{path}; `byzgym evaluate {shlex.join(words)}` plays it", soft_wrap=True)


def _show_frame(console: Console, frame: Any) -> None:
    if frame is not None:  # a window has drawn it itself
        console.print(frame, highlight=False, markup=False)
