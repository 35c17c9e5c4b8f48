"""`byzgym train`, and the arguments that it shares with `byzgym evaluate`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from byzgym import files, tracking
from byzgym.cli.playing import complain
from byzgym.cli.terminal import Terminal, flags, mistakes
from byzgym.envs.config import AGENT_ARGUMENTS, EnvConfig
from byzgym.experiments.config import arguments, command, options

if TYPE_CHECKING:
    from byzgym.integrations.sb3.config import TrainingConfig
    from byzgym.integrations.sb3.training import Training

Algorithm = Literal["ppo", "a2c", "sac", "td3", "recurrent_ppo", "tqc"]
NOT_OF_THE_ENVIRONMENT = ("evaluate_every",)
"""Of the environment's arguments: test metrics on the way, which the commands show nothing of."""
OBSERVATION = ("similarity", "trust", "relative_norms", "reputation", "history", "age")
"""What a policy without a memory can learn from."""
_STOPPING = "byzgym: stops at the end of this rollout, to save a checkpoint; Ctrl-C again stops at once"


@dataclass(frozen=True, kw_only=True)
class Episodes(EnvConfig):
    """The environment of one policy."""

    observation: tuple[str, ...] = OBSERVATION
    """Parts of the observation; these tell a policy more than the environment's default, pooled."""
    evaluate_every: Annotated[int | None, tyro.conf.Fixed, tyro.conf.Suppress] = None

    def environment_arguments(self) -> dict[str, Any]:
        """The keyword arguments of the environment."""
        # A single part is a Dict, too: learners know the parts by their names.
        alone = self.observation in (("pooled",), ("all",))
        observation = self.observation[0] if alone else list(self.observation)
        given = arguments(self, EnvConfig) | {"observation": observation}
        return {name: value for name, value in given.items() if name not in NOT_OF_THE_ENVIRONMENT}

    def check_observation(self, given: set[str]) -> None:
        """Refuse options, of those given, that are about a part which is not observed."""
        useless = sorted(given & {"pool_size", "pooling"})
        if useless and not {"pooled", "all"} & set(self.observation):
            raise ValueError(
                f"{flags(useless)}: only for the part pooled of the observation, got --observation "
                f"{' '.join(self.observation)}"
            )


@dataclass(frozen=True, kw_only=True)
class Train(Episodes):
    """Train a stable-baselines3 agent.

    The folder gets model.zip, best_model.zip (of the evaluation with the highest return), evaluations.csv,
    training.json, checkpoints, and logs where TensorBoard is installed. Ctrl-C saves a checkpoint, and
    --resume goes on from the last one. ppo, a2c, sac and recurrent_ppo have permutation-equivariant policies,
    td3 and tqc their features; recurrent_ppo and tqc need sb3-contrib.
    """

    reward: str = "held_out"
    """Samples on which the reward is computed: held_out ones, or the few of qv, which can be overfitted."""
    algorithm: Algorithm = "ppo"
    """The learner."""
    steps: int = 150_000
    """Environment steps in all."""
    num_envs: int = 64
    """Environments side by side."""
    seed: int = 0
    """Of the learner and of its environments."""
    evaluate_every: int = 20_000  # not the environment's argument of this name
    """Steps between evaluations, each of which also saves a checkpoint."""
    evaluation_episodes: int = 32
    """Episodes of an evaluation; the same ones in each, and none of the training."""
    out: Path = Path("byzgym-agent")
    """Folder for the model and all that belongs to it."""
    track: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Where the training is logged beside TensorBoard: Weights & Biases, MLflow."""
    resume: bool = False
    """Go on with the training in the folder, up to --steps if given; all else is as it was."""
    overwrite: bool = False
    """Replace a training that the folder holds."""

    def run(self, terminal: Terminal) -> None:
        """Train, evaluate and save."""
        from byzgym.integrations.sb3 import learners, training

        with mistakes():
            config = self._config(terminal)
            trackers = tracking.make(self.track, self.out, complain)
            if not self.resume:  # wrong arguments leave no folder
                learners.environments(replace(config, num_envs=1)).close()
        with mistakes(OSError), files.lock(self.out):
            with mistakes():
                config = self._config(terminal)  # another training may have ended since
                self._check_folder(training.held(self.out))
                run = training.Training(self.out, config, self.resume)
            self._say_what_begins(run, terminal)
            try:
                with terminal.progress(config.steps, run.steps_done, every=30) as advance:
                    run.run(
                        lambda done, mean_return: advance(_named(config.algorithm, mean_return), done),
                        lambda row: terminal.print(_described(row)),
                        lambda: print(_STOPPING, file=sys.stderr),
                        trackers,
                    )
            except KeyboardInterrupt:
                done = run.config.steps_done
                go_on = command(terminal.imports, "train", "--out", str(self.out), "--resume")
                print(f"byzgym: interrupted; {done} steps are saved, and `{go_on}` goes on", file=sys.stderr)
                raise
        path = self.out / training.MODEL
        evaluate = command(terminal.imports, "evaluate", "--model-path", str(path), *self._options(config))
        terminal.line(f"{path}; `{evaluate}` plays it")

    def _say_what_begins(self, run: Training, terminal: Terminal) -> None:
        from byzgym.integrations.sb3 import training

        for problem in run.problems:
            terminal.line(f"{problem}; the one before it is taken")
        if not training.has_tensorboard():
            terminal.print("no logs for TensorBoard, which is not installed: pip install 'byzgym[train]'")
        config, done = run.config, run.steps_done
        steps = f"{config.steps} steps" if done == 0 else f"from step {done} to {config.steps}"
        terminal.line(
            f"training {config.algorithm} in {self.out}, {steps}; evaluations are means of "
            f"{config.evaluation_episodes} episodes, the same for all policies"
        )

    def _config(self, terminal: Terminal) -> TrainingConfig:
        """How to train: by the arguments, or as before."""
        from byzgym.integrations.sb3 import learners
        from byzgym.integrations.sb3.config import NAME, TrainingConfig
        from byzgym.integrations.sb3.training import MODEL

        environment = self.environment_arguments()
        given = TrainingConfig(
            algorithm=self.algorithm,
            environment=environment,
            softmax_beta=learners.softmax_beta(environment),
            seed=self.seed,
            num_envs=self.num_envs,
            steps=self.steps,
            evaluate_every=self.evaluate_every,
            evaluation_episodes=self.evaluation_episodes,
            imports=list(terminal.imports),
        )
        if not self.resume:
            self.check_observation(terminal.given)
            return replace(given, settings=learners.settings(self.algorithm, self.num_envs, environment))
        if self.overwrite:
            raise ValueError("either --resume or --overwrite, not both")
        path = self.out / NAME
        if not path.is_file():
            raise FileNotFoundError(f"{self.out} holds no training to resume: {NAME} is missing")
        held = TrainingConfig.read(path)
        missing = [name for name in held.imports if name not in terminal.imports]
        if missing:
            go_on = command(held.imports, "train", "--out", str(self.out), "--resume")
            raise ValueError(f"this training imported {', '.join(missing)}; `{go_on}` goes on")
        others = given.contradictions(held, terminal.given - {"steps"})
        if others:
            raise ValueError(f"--resume goes on as {path} says; leave out: {'; '.join(others)}")
        if "steps" in terminal.given:
            held = replace(held, steps=self.steps)
        if held.steps_done >= held.steps and (self.out / MODEL).exists():
            raise ValueError(
                f"{self.out} has {held.steps_done} steps; say with --steps up to how many to go on"
            )
        return held

    def _check_folder(self, held: list[Path]) -> None:
        if held and not (self.overwrite or self.resume):
            names = ", ".join(dict.fromkeys(path.relative_to(self.out).parts[0] for path in held))
            raise FileExistsError(
                f"{self.out} already holds {names}; choose another folder (--out), replace what it holds "
                "(--overwrite) or go on with it (--resume)"
            )

    def _options(self, config: TrainingConfig) -> list[str]:
        """The options with which `byzgym evaluate` plays in the environment of the training."""
        named: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in config.environment.items()
            if name not in AGENT_ARGUMENTS
        }
        return options(Episodes(**named), Episodes)


def _named(algorithm: str, mean_return: float | None) -> str:
    return algorithm if mean_return is None else f"{algorithm}, training return {mean_return:.2f}"


def _described(row: dict[str, Any]) -> str:
    name = f"{row['policy']}, {row['steps']} steps" if row["steps"] else row["policy"]
    return f"{name:<24} return {row['return']:7.3f}  accuracy {row['accuracy']:.3f}"
