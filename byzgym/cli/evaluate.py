"""`byzgym evaluate`, and what it shares with `byzgym inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium

from byzgym import agents
from byzgym.agents.base import action_of
from byzgym.aggregation import NotLinearError
from byzgym.cli.terminal import Terminal, flags, mistakes
from byzgym.cli.train import Episodes
from byzgym.envs import ENV_ID
from byzgym.envs.config import AGENT_ARGUMENTS
from byzgym.validation import check_int


@dataclass(frozen=True, kw_only=True)
class Player(Episodes):
    """A policy or a model, and the environment that it plays in."""

    policy: str | None = None
    """A rule or another agent, such as krum or model:runs/ppo/model.zip; gaa where neither a policy nor a
    model is given."""
    model_path: Path | None = None
    """A model saved by `byzgym train` or stable-baselines3, instead of a policy. What it observes and what
    its actions mean is read from training.json beside it. Without that, --observation, --action and their
    like say it; actions that may be below 0 are then taken for logits, of which a softmax makes credits.
    Observations are not normalised: a model trained in VecNormalize is not played as in its training."""
    algorithm: str | None = None
    """What made that model, such as ppo, recurrent_ppo or dqn; needed only where it is not found out."""
    softmax_beta: float | None = None
    """Inverse temperature of the softmax that turns the model's logits into credits; 10, which `byzgym train`
    uses, where neither this nor training.json says it."""

    def make_player(self, terminal: Terminal) -> tuple[gymnasium.Env[Any, Any], Any]:
        """The environment, and the method `predict` of what plays in it."""
        agent = self._agent(terminal)
        action = action_of(agent, self.environment_arguments())
        env = self.make_environment(action=action, rules=None)
        agent.bind(env)
        self._say_what_differs(agent, env, terminal)
        return env, agent.predict

    def make_environment(self, **others: Any) -> gymnasium.Env[Any, Any]:
        """The environment, with other arguments than those of the command line."""
        arguments = {**self.environment_arguments(), **others}
        return gymnasium.make(ENV_ID, disable_env_checker=True, **arguments)

    def _agent(self, terminal: Terminal) -> agents.Agent:
        path = self.model_path
        if path is not None:
            if self.policy is not None:
                raise ValueError(f"either --policy or --model-path, not both: {self.policy}, {path}")
            return self._model(path, terminal)
        useless = sorted(terminal.given & {*AGENT_ARGUMENTS, "algorithm", "softmax_beta"})
        if useless:
            raise ValueError(f"{flags(useless)}: only for the model of --model-path, which is missing")
        return agents.make_from("gaa" if self.policy is None else self.policy)

    def _model(self, path: Path, terminal: Terminal) -> agents.Agent:
        from byzgym.integrations.sb3.config import TrainingConfig
        from byzgym.integrations.sb3.model import ModelPolicy

        own = {name: v for name, v in self.environment_arguments().items() if name in AGENT_ARGUMENTS}
        if path.is_file() and TrainingConfig.beside(path) is not None:
            # training.json says it, and options may only contradict it.
            own = {name: value for name, value in own.items() if name in terminal.given}
        else:
            self.check_observation(terminal.given)
        return ModelPolicy(path, self.algorithm, self.softmax_beta, own)

    def _say_what_differs(self, agent: agents.Agent, env: Any, terminal: Terminal) -> None:
        from byzgym.experiments.play import told_less

        policy = repr(agent) if self.model_path is not None else self.policy or "gaa"
        if agent.reference:
            terminal.print(f"{policy} is a reference: it sees more than a server would")
        for told in told_less(policy, agent, env.unwrapped.simulation):
            terminal.line(f"{policy}: {told}" if told.rule else f"{policy} is {told}")
        for line in agent.differences(self.environment_arguments()):
            terminal.line(line)


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
