"""Finding good parameters of one policy, for `byzgym tune`.

A trial is a choice of parameters. It is played as a comparison of one policy in the store of a folder, and
its score is the mean accuracy over seeds under the worst attack, on validation samples: the task is
`validation` (`byzgym.tasks.validation`), which has no test data. Optuna's sampler (TPE) chooses the next
trial from the scores of those before. Its storage, tuning.sqlite, lies in the same folder.

One seed reproduces the choice. Trials are played one after the other, and the sampler gets a seed of its own
for each, from the seed and the number of trials before. So a tuning that was killed goes on with the trial
that it would have played, whose finished runs the store has.
"""

from __future__ import annotations

import ast
import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from byzgym import specs
from byzgym.aggregation.registry import label, normalised
from byzgym.experiments import identity, play
from byzgym.experiments.config import Comparison
from byzgym.experiments.drawings import discard_drawings
from byzgym.experiments.engine import Engine
from byzgym.experiments.estimates import worst_case
from byzgym.experiments.grid import Grid, Progress
from byzgym.experiments.store import NAME as STORE
from byzgym.experiments.store import Store
from byzgym.validation import check_int, shown, unknown, within

NAME = "tuning.sqlite"
OF_THE_RUN = "run."
"""What begins the name of a parameter that is an argument of the run, such as run.learning_rate."""
_RUN = ("learning_rate", "batch_size", "momentum", "worker_momentum", "weight_decay", "local_steps", "model")
"""Arguments of the run that may be searched: how it learns, not who attacks and what the server has."""


@dataclass(frozen=True)
class Parameter:
    """What may be chosen for one parameter: a number between two others, or one of several texts."""

    name: str
    low: float = 0
    high: float = 0
    log: bool = False
    choices: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str) -> Parameter:
        """Read ``name=low:high``, ``name=low:high:log`` or ``name=value,value``.

        Between two whole numbers are whole numbers. Values are Python literals or plain texts.

        Raises:
            ValueError: If the text has another form.

        Example:
            >>> Parameter.read("window=1:20")
            Parameter(name='window', low=1, high=20, log=False, choices=())
            >>> Parameter.read("learning_rate=0.001:0.3:log").log
            True
            >>> Parameter.read("hidden=[16],[32,32]").choices
            ('[16]', '[32, 32]')
        """
        name, _, space = (part.strip() for part in text.partition("="))
        problem = ValueError(
            "search must be name=low:high, name=low:high:log or name=value,value,..., with low below high "
            f"(above 0 for log) and no value twice, got {shown(text)}"
        )
        if not name:
            raise problem
        choices = _choices(space)
        if len(choices) > 1:
            if len(set(choices)) < len(choices):
                raise problem
            return cls(name, choices=choices)
        low, high, log = _bounds(space)
        if not (math.isfinite(low) and math.isfinite(high) and low < high and (low > 0 or not log)):
            raise problem
        return cls(name, low, high, log)

    @property
    def corners(self) -> list[Any]:
        """The values at its ends, or all choices."""
        return [_value(one) for one in self.choices] if self.choices else [self.low, self.high]

    def distribution(self) -> Any:
        """What Optuna calls it."""
        from optuna import distributions

        if self.choices:
            return distributions.CategoricalDistribution(self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return distributions.IntDistribution(self.low, self.high, log=self.log)
        return distributions.FloatDistribution(self.low, self.high, log=self.log)

    def value(self, chosen: Any) -> Any:
        """The value for what Optuna has chosen; real numbers to four digits, which are easier to report."""
        if self.choices:
            return _value(chosen)
        if isinstance(chosen, float):
            return min(max(float(f"{chosen:.4g}"), self.low), self.high)
        return chosen


@dataclass(frozen=True)
class Trial:
    """What a choice of parameters has given."""

    policy: str
    run: dict[str, Any]
    """Arguments of the run that were chosen."""
    accuracy: float = math.nan
    """The mean over seeds under the worst attack, on validation samples; NaN where it failed."""
    attack: str = ""
    """The worst attack."""
    num_byzantine: int = 0
    """How many workers are Byzantine in the worst case."""
    diverged: int = 0
    """How many of its runs diverged, each of which counts as chance."""
    error: str = ""
    """Why it failed."""


@dataclass
class Tuning:
    """A search for the parameters of one policy.

    Args:
        comparison: How trials are played: task, attacks, seeds, rounds and so on. Its only policy is the one
            whose parameters are searched; those that it gives are fixed.
        search: What is searched, no parameter twice.
        folder: Where runs.sqlite and tuning.sqlite are.
        seed: Of the sampler.
        imports: The user's modules that have been imported.

    Raises:
        ValueError: If an argument is not allowed.
    """

    comparison: Comparison
    search: Sequence[Parameter]
    folder: Path
    seed: int = 0
    imports: Sequence[str] = ()
    _study: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        check_int("seed", self.seed, low=0)
        if len(self.comparison.policies) != 1:
            raise ValueError(f"policies must be one, got {shown(list(self.comparison.policies))}")
        names = [parameter.name for parameter in self.search]
        if not names:
            raise ValueError("search must name at least one parameter")
        fixed = normalised(self.comparison.policies[0])
        for number, name in enumerate(names):
            if name in names[:number]:
                raise ValueError(f"search must not repeat {name}")
            if name in fixed:
                raise ValueError(f"search must not name {name}, which {self.comparison.policies[0]} fixes")
            if name.startswith(OF_THE_RUN) and (argument := name.removeprefix(OF_THE_RUN)) not in _RUN:
                raise unknown("argument of the run", argument, _RUN)
        task = {"name": "validation", specs.BARE: self.comparison.task}
        self.comparison = replace(self.comparison, task=specs.label(task))

    @property
    def rounds(self) -> int:
        """Rounds of a trial, of all its batches together."""
        one = self.comparison
        return one.rounds * len(one.attacks) * len(one.num_byzantine)

    def check(self) -> None:
        """Try the control and every parameter alone at its ends, so that mistakes are found before all else.

        Raises:
            ValueError, TypeError: If a parameter does not exist or a value is not allowed.
            ImportError: If Optuna is not installed.
        """
        _optuna()
        if play.begin(self._comparison({})).references:
            raise ValueError(f"policy must not be a reference, got {self.comparison.policies[0]}")
        for parameter in self.search:
            for value in parameter.corners:
                with within(f"search {parameter.name}={value}"):
                    play.begin(self._comparison({parameter.name: value}))

    def trials(self) -> list[Trial]:
        """All that are finished, in the order of playing; the first is the control, with the defaults."""
        return [_read(trial) for trial in self._finished()]

    def play(self, trials: int, engine: Engine, progress: Progress = lambda policy, rounds: None) -> None:
        """Play until so many trials are finished, of which the first is the control.

        Raises:
            OSError: If the folder cannot be written to.
        """
        optuna = _optuna()
        with Store(self.folder, create=True):
            pass  # it can be written to
        study = self._open()
        for trial in study.get_trials(deepcopy=False):
            if not trial.state.is_finished():  # it was being played when the process was killed
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        while (number := len(self._finished())) < trials:
            distributions = {one.name: one.distribution() for one in self.search} if number else {}
            entropy = np.random.SeedSequence([self.seed, number])
            study.sampler = optuna.samplers.TPESampler(seed=int(entropy.generate_state(1)[0]))
            trial = study.ask(distributions)
            chosen = {one.name: one.value(trial.params[one.name]) for one in self.search if number}
            name = f"trial {number + 1}"
            found = self._score(chosen, engine, partial(_renamed, progress, name))
            trial.set_user_attr("trial", vars(found))
            if found.error:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, found.accuracy)

    def _finished(self) -> list[Any]:
        trials = self._open().get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state.is_finished() and "trial" in trial.user_attrs]

    def _open(self) -> Any:
        """Optuna's study of just this search; another one, or other code, has its own in the same file."""
        if self._study is None:
            optuna = _optuna()
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            comparison = self.comparison
            named = [str(comparison.task), *comparison.policies, *comparison.attacks]
            what = {
                "setting": identity.setting(comparison),
                "files": identity.digests(named),
                "runs": list(comparison.runs()),
                "search": [vars(parameter) for parameter in self.search],
                "seed": self.seed,
            }
            # Not a URL with the path in it, in which a "?" would mean something else.
            connect = partial(sqlite3.connect, self.folder / NAME, timeout=60)
            self._study = optuna.create_study(
                storage=optuna.storages.RDBStorage(f"sqlite:///{NAME}", {"creator": connect}),
                study_name=f"{comparison.policies[0]} {identity.key(what)[:16]}",
                direction="maximize",
                load_if_exists=True,
            )
        return self._study

    def _comparison(self, chosen: Mapping[str, Any]) -> Comparison:
        """The comparison of a trial."""
        own = {name: value for name, value in chosen.items() if not name.startswith(OF_THE_RUN)}
        policy = label(normalised(self.comparison.policies[0]) | own)
        return replace(self.comparison, policies=(policy,), **_of_the_run(chosen))

    def _score(self, chosen: Mapping[str, Any], engine: Engine, progress: Progress) -> Trial:
        comparison = self._comparison(chosen)
        trial = Trial(comparison.policies[0], _of_the_run(chosen))
        # An attack at a time, so that there is something to play side by side.
        parts = [replace(comparison, attacks=(attack,)) for attack in comparison.attacks]
        try:
            grid = Grid.plan(parts, self.folder, self.imports)
            with grid.open() as store:
                grid.play(store, engine, progress)
                runs = store.table(grid.settings[0])
        except (ValueError, TypeError) as error:  # values that do not go together
            return replace(trial, error=str(error))
        keys = {key for task in grid.tasks for _, key in task.runs()}
        runs = runs[runs["key"].isin(keys)]
        if (failed := runs[runs["status"] != "done"]).size:
            return replace(trial, error=str(failed["error"].iloc[0]))
        worst = worst_case(runs, resamples=0).iloc[0]
        return replace(
            trial,
            accuracy=float(worst["value"]),
            attack=str(worst["attack"]),
            num_byzantine=int(worst["num_byzantine"]),
            diverged=int(runs["diverged"].sum()),
        )


def discard(folder: Path) -> None:
    """Forget all trials and runs that a folder holds."""
    (folder / NAME).unlink(missing_ok=True)
    discard_drawings(folder)
    if (folder / STORE).is_file():
        with Store(folder) as store:
            store.clear()


def best(trials: Sequence[Trial]) -> list[Trial]:
    """Those that have not failed, the best one first; of equals the earliest."""
    scored = [trial for trial in trials if not trial.error]
    return sorted(scored, key=lambda trial: -round(trial.accuracy, 12))


def _renamed(progress: Progress, name: str, policy: str, rounds: int) -> None:
    progress(name, rounds)


def _of_the_run(chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(OF_THE_RUN): v for name, v in chosen.items() if name.startswith(OF_THE_RUN)}


def _read(trial: Any) -> Trial:
    return Trial(**trial.user_attrs["trial"])


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ImportError("tuning needs optuna: pip install 'byzgym[tune]'") from None
    return optuna


def _choices(text: str) -> tuple[str, ...]:
    """The values between commas, each in one spelling."""
    try:
        return tuple(map(repr, ast.literal_eval(f"[{text}]")))
    except (SyntaxError, TypeError, ValueError):
        return tuple(repr(_value(piece.strip())) for piece in text.split(","))


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, TypeError, ValueError):
        return text


def _bounds(text: str) -> tuple[float, float, bool]:
    """Lower and upper bound, and whether on a logarithmic scale; NaN where the text has another form."""
    parts = text.split(":")
    values = [_value(part.strip()) for part in parts[:2]]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not numbers or len(values) < 2 or parts[2:] not in ([], ["log"]):
        return math.nan, math.nan, False
    return values[0], values[1], len(parts) == 3
