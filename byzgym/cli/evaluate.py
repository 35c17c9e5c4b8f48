"""`byzgym evaluate`, and what it shares with `byzgym inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium

from byzgym import agents
from byzgym.aggregation import NotLinearError
from byzgym.cli.terminal import Terminal, mistakes
from byzgym.cli.train import Algorithm, Episodes
from byzgym.envs import ENV_ID
from byzgym.validation import check_int


@dataclass(frozen=True, kw_only=True)
class Player(Episodes):
    """A policy or a model, and the environment that it plays in."""

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

    def make_player(self, terminal: Terminal) -> tuple[gymnasium.Env[Any, Any], Any]:
        """The environment, and the method `predict` of what plays in it."""
        return self._with_policy(terminal) if self.model_path is None else self._with_model(self.model_path)

    def make_environment(self, **others: Any) -> gymnasium.Env[Any, Any]:
        """The environment, with other arguments than those of the command line."""
        arguments = {**self.environment_arguments(), **others}
        return gymnasium.make(ENV_ID, disable_env_checker=True, **arguments)

    def _with_policy(self, terminal: Terminal) -> tuple[gymnasium.Env[Any, Any], Any]:
        from byzgym.experiments.play import told_less

        for option, value in (("algorithm", self.algorithm), ("softmax-beta", self.softmax_beta)):
            if value is not None:
                raise ValueError(f"--{option} {value} is for the model of --model-path, which is missing")
        policy = "gaa" if self.policy is None else self.policy
        agent = agents.make_from(policy)
        env = self.make_environment(action="null_slot" if agent.linear else "update")
        agent.bind(env)
        told = told_less(policy, agent, env.unwrapped.simulation)  # type: ignore[attr-defined]
        if agent.reference:
            terminal.print(f"{policy} is a reference: it sees more than a server would")
        if told is not None:
            terminal.print(f"{policy} is {told}")
        return env, agent.predict

    def _with_model(self, path: Path) -> tuple[gymnasium.Env[Any, Any], Any]:
        from byzgym.integrations.sb3.training import load

        if self.policy is not None:
            raise ValueError(f"either --policy or --model-path, not both: {self.policy}, {path}")
        model, env = load(path, self.algorithm or "ppo", self.make_environment(), self.softmax_beta)
        return env, model.predict


@dataclass(frozen=True, kw_only=True)
class Evaluate(Player):
    """Play episodes of the Gymnasium environment with one policy."""

    episodes: int = 5
    """Number of episodes, at least 1."""
    seed: int = 0
    """Episode i is reset with seed + i."""
    render: Literal["none", "ansi", "human"] = "none"
    """Show ten frames an episode."""

    def run(self, terminal: Terminal) -> None:
        """Play and tabulate."""
        from byzgym.experiments.play import play_episodes

        def show(frame: Any) -> None:
            if frame is not None:  # a window has drawn it itself
                terminal.print(frame)

        with mistakes():
            check_int("episodes", self.episodes, low=1)
            check_int("seed", self.seed, low=0)
            env, predict = self.make_player(terminal)
            env.reset(seed=self.seed)
        with mistakes(ValueError, RuntimeError, NotLinearError):
            shown = None if self.render == "none" else show
            table = play_episodes(env, predict, self.episodes, self.seed, shown)
        env.close()
        terminal.print(table.to_string(index=False, float_format="{:.3f}".format))
        sign = "+-" if terminal.console.options.ascii_only else "±"
        for column in ("return", "accuracy"):
            mean, std = table[column].mean(), table[column].std()
            spread = f" {sign} {std:.3f}" if len(table) > 1 else ""
            terminal.print(f"{column}: {mean:.3f}{spread}")

    def make_environment(self, **others: Any) -> gymnasium.Env[Any, Any]:
        """See `Player`; it renders where that is wanted."""
        return super().make_environment(**others, render_mode=None if self.render == "none" else self.render)
