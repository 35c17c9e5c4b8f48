"""The command line: `byzgym list | compare | train | evaluate | report | bench`.

What takes long to import (pandas, matplotlib, scikit-learn, stable-baselines3) is imported by the command
that needs it, so that help and lists come quickly.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from byzgym.experiments.comparison import Comparison, Setting, flags
from byzgym.validation import check_int

if TYPE_CHECKING:
    from collections.abc import Iterator

    import gymnasium

    from byzgym.experiments.evaluate import Predict

Kind = Literal["tasks", "models", "partitions", "qv-sources", "attacks", "roles", "rules", "agents"]
Algorithm = Literal["ppo", "a2c", "sac", "td3"]

_ALONE = (("pooled",), ("all",))


class InputError(Exception):
    """A mistake of the user, told in one line."""


@dataclass(frozen=True, kw_only=True)
class Compare(Comparison):
    """Compare policies under attacks: a table, results.csv, figures and a report.

    Names may carry parameters: `ipm:epsilon=1.0`, `gaa:window=1`, `dirichlet:alpha=0.1`. Without
    arguments the classical rules, GAA and the oracle meet four attacks by 7 of 10 workers on the digits.
    """

    out: Path = Path("byzgym-results")
    """Folder for results.csv, curves.csv, config.json, the figures and the report."""
    overwrite: bool = False
    """Replace results that the folder holds."""

    def __post_init__(self) -> None:
        """Leave the checks to `run`, which tells their errors in one line."""

    def run(self, console: Console) -> None:
        """Play, tabulate, draw and report."""
        from byzgym.experiments import report, tables
        from byzgym.experiments.compare import begin, play

        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(Comparison)}
        with mistakes():
            comparison = Comparison(**values)
            records = begin(comparison, self.out, self.overwrite)
        batches = len(comparison.policies) * len(comparison.num_byzantine)
        try:
            with _progress(console, batches * comparison.rounds) as advance, mistakes(OSError):
                play(records, self.out, advance)
        except KeyboardInterrupt:
            finished = f"what was finished is in {self.out}, and `byzgym report {self.out}` shows it"
            if records.results.empty:
                finished = f"before the first policy was finished; nothing in {self.out} has changed"
            print(f"byzgym: interrupted; {finished}", file=sys.stderr)
            raise
        tables.show(records, console)
        files = report.write(records, self.out)
        console.print(f"\n{self.out}: results.csv, curves.csv, {', '.join(path.name for path in files)}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Make the figures and the report again from the files of `byzgym compare`."""

    folder: tyro.conf.Positional[Path]
    """The folder with results.csv, curves.csv and config.json."""

    def run(self, console: Console) -> None:
        """Read, tabulate, draw and report."""
        from byzgym.experiments import report, tables
        from byzgym.experiments.records import Records

        with mistakes():
            records = Records.read(self.folder)
        tables.show(records, console)
        files = report.write(records, self.folder)
        console.print(f"\n{self.folder}: {', '.join(path.name for path in files)}")


@dataclass(frozen=True, kw_only=True)
class List:
    """List what has a name, with its parameters."""

    kind: tyro.conf.Positional[Kind | None] = None
    """One kind only."""

    def run(self, console: Console) -> None:
        """Print the tables."""
        from byzgym.experiments import listing

        listing.show(self.kind, console)


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
        from byzgym.experiments import specs

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
    """A model saved by `byzgym train` or stable-baselines3, instead of a policy."""
    algorithm: Algorithm | None = None
    """What made that model; ppo where not given."""
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
        if self.model_path is None and self.algorithm is not None:
            raise ValueError(
                f"--algorithm {self.algorithm} is for the model of --model-path, which is missing"
            )

    def _with_policy(
        self, env: gymnasium.Env[Any, Any], console: Console
    ) -> tuple[gymnasium.Env[Any, Any], Predict]:
        from byzgym.experiments import evaluate

        if self.model_path is None:
            predict, told = evaluate.policy_by_name(self.policy or "gaa", env)
            if told is not None:
                console.print(f"{told.policy} is {told}", highlight=False)
            return env, predict
        from byzgym.experiments.training import load

        model, env = load(self.model_path, self.algorithm or "ppo", env)
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
            self.out.mkdir(parents=True, exist_ok=True)
        with _progress(console, steps) as advance:
            training.learn(model, steps, lambda done: advance(self.algorithm, done))
        model.save(path)
        words = ["--model-path", str(path), "--algorithm", self.algorithm]
        words += flags(self, dataclasses.fields(Episodes))
        console.print(f"{path}; `byzgym evaluate {shlex.join(words)}` plays it", soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure speed in a few seconds: steps per second, and a round beside a plain training step."""

    num_envs: int = 64
    """Environments side by side, at least 1."""

    def run(self, console: Console) -> None:
        """Measure and tabulate."""
        import torch
        from rich import box
        from rich.table import Table

        from byzgym.experiments import bench

        with mistakes():
            measured = [*bench.environment_speed(self.num_envs), *bench.round_speed()]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("what", "speed", "in comparison"):
            table.add_column(heading, justify="right" if heading == "speed" else "left")
        for line in measured:
            table.add_row(line.what, line.value, line.ratio)
        console.print(table)
        console.print(f"{torch.get_num_threads()} threads, torch {torch.__version__}", highlight=False)


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Those of the command line where None.

    Returns:
        The exit status: 0, 2 for a mistake of the user, 130 where interrupted.
    """
    try:
        command: Any = tyro.cli(
            Command,
            prog="byzgym",
            description="Byzantine-robust gradient aggregation: compare, train and evaluate policies.",
            args=None if arguments is None else list(arguments),
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
        )
        command.run(Console())
    except InputError as error:
        print(f"byzgym: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _show_frame(console: Console, frame: Any) -> None:
    if frame is not None:  # a window has drawn it itself
        console.print(frame, highlight=False, markup=False)


@contextmanager
def mistakes(*kinds: type[Exception]) -> Iterator[None]:
    """Turn the errors with which byzgym refuses an input into an `InputError` of one line."""
    caught = kinds or (ValueError, TypeError, OSError, RuntimeError, ImportError)
    try:
        yield
    except caught as error:
        raise InputError(" ".join(str(error).split())) from error


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[str, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=total)
        yield lambda what, done: progress.update(bar, description=f"{what:<16}", advance=done)


if __name__ == "__main__":
    sys.exit(main())
