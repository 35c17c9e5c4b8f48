"""Playing runs of a comparison side by side, in one batched simulation, and episodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pandas as pd
import torch
from torch import Tensor

import byzgym
from byzgym import agents
from byzgym.agents import Agent
from byzgym.agents.base import name_of
from byzgym.aggregation import Rule, ServerView
from byzgym.aggregation.registry import parse
from byzgym.ambient import episode_seed
from byzgym.envs.rewards import exploded
from byzgym.experiments import threat_model
from byzgym.experiments.config import Comparison, arguments
from byzgym.experiments.results import Results, Told
from byzgym.experiments.statistics import CreditLog
from byzgym.simulation import Simulation
from byzgym.simulation.config import RunConfig
from byzgym.validation import check_int

Member = tuple[str, int]
"""Attack and seed of a run."""


def begin(comparison: Comparison) -> Results:
    """Results without runs, of a comparison that can run: every policy decides once under every attack."""
    results = Results(comparison)
    for f in comparison.num_byzantine:
        simulation = _simulation(comparison, f, comparison.attacks)
        for policy in comparison.policies:
            agent = agents.build(policy, simulation)
            agent.reset()
            simulation.memory.reset()  # of what another policy has kept there
            agent.decide(simulation.view)
            # Tables name f; of a cohort fewer workers may be Byzantine.
            told = told_less(policy, agent, simulation)
            results.told += [replace(one, num_byzantine=f) for one in told]
            if agent.reference and policy not in results.references:
                results.references.append(policy)
            notes = [f"{policy}: {line}" for line in agent.differences(arguments(comparison, RunConfig))]
            results.notes += [note for note in notes if note not in results.notes]
    return results


class Batch(NamedTuple):
    """What runs that were played side by side have given, run by run in their order."""

    runs: list[dict[str, Any]]
    """The numbers of each run, `RUN_COLUMNS`."""
    curves: list[dict[str, Any]]
    """The points of all curves, `CURVE_COLUMNS`."""
    traces: list[dict[str, np.ndarray]]
    """Credits [rounds, n] of each run, and who was Byzantine; empty where a policy gives no credits."""
    threat_models: list[dict[str, Any]]
    """Of each run, `threat_model.FIELDS`."""


def play_batch(
    comparison: Comparison,
    policy: str,
    num_byzantine: int,
    progress: Callable[[int], None] = lambda rounds: None,
    members: Sequence[Member] = (),
) -> Batch:
    """Play one policy under all attacks and seeds, side by side and on one thread.

    A run that diverges goes on: the server refuses what is not finite and keeps its parameters.

    Args:
        comparison: What all runs have in common.
        policy: Who decides.
        num_byzantine: How many workers attack.
        progress: Called with the number of rounds just played.
        members: Attacks and seeds; all of the comparison where there are none.
    """
    playing = Playing(comparison, policy, num_byzantine, members)
    playing.to(comparison.rounds, progress)
    return playing.batch()


class Playing:
    """Runs of one policy that are played side by side, round by round; the arguments are `play_batch`'s.

    Attributes:
        simulation: An environment for each run, in the order of the members.
        agent: Who decides.
        round: How many rounds have been played.
        curves: The points of all curves, `CURVE_COLUMNS`.
        credits: What the last round gave, [E, n] ([E, rows] of secure groups); None without credits.
        byzantine: Which of these submissions were Byzantine, bool, [E, n]; of the next ones in round 0.
        workers: Who sent them, [E, n]; None where row i is worker i.
    """

    def __init__(
        self, comparison: Comparison, policy: str, num_byzantine: int, members: Sequence[Member] = ()
    ) -> None:
        self._started = time.perf_counter()
        seeds = range(comparison.first_seed, comparison.first_seed + comparison.seeds)
        self._members = members or [(attack, seed) for attack in comparison.attacks for seed in seeds]
        self._comparison, self._policy, self._num_byzantine = comparison, policy, num_byzantine
        self._log = CreditLog(comparison.rounds)
        self.round, self.curves = 0, list[dict[str, Any]]()
        self._excluded: Tensor | None = None  # bool [n]
        with _one_thread():
            self.simulation = _simulation(comparison, num_byzantine, [attack for attack, _ in self._members])
            self.agent = agents.build(policy, self.simulation)
            # Seed s gives what env.reset(seed=s) gives.
            self.simulation.reset([episode_seed(np.random.default_rng(seed)) for _, seed in self._members])
            self.agent.reset()
            self._note_point()
        setup = self.simulation.setup
        self._sampled = setup.cohort_size < setup.num_workers and setup.secure_group_size == 1
        self.credits: Tensor | None = None
        self._note_who()

    def to(self, round: int, progress: Callable[[int], None] = lambda rounds: None) -> None:
        """Play until so many rounds have been played, on one thread."""
        with _one_thread():
            while self.round < round:
                self._play_round()
                progress(1)

    def switch(self, policy: str) -> None:
        """Let another policy decide from the next round on; it remembers nothing of the rounds before.

        Attacks that know the server's rule know the new one once it has decided.

        Raises:
            ValueError: If it is unknown, or cannot decide here.
            TypeError: If a parameter does not exist.
        """
        agent = agents.build(policy, self.simulation)
        self.simulation.memory.reset()
        agent.reset()
        self._policy, self.agent, self._log = policy, agent, CreditLog(self._comparison.rounds)

    def exclude(self, workers: Iterable[int]) -> None:
        """Reject what these workers send, from the next round on.

        Raises:
            ValueError: If there is no such worker, none is left, or secure groups hide who sends.
        """
        setup = self.simulation.setup
        chosen = [check_int("without (each)", one, 0, setup.num_workers - 1) for one in workers]
        if chosen and setup.secure_group_size > 1:
            raise ValueError(f"without: groups of {setup.secure_group_size} hide who sends, got {chosen}")
        if len(set(chosen)) == setup.num_workers:
            raise ValueError(f"without must leave a worker, got all {setup.num_workers}")
        if not chosen:
            return
        self._excluded = torch.zeros(setup.num_workers, dtype=torch.bool, device=setup.device)
        self._excluded[chosen] = True

    def measure(self, env: int) -> tuple[float, float]:
        """Accuracy and QV loss of a run, as it is now."""
        with _one_thread():
            accuracy, loss = self.simulation.evaluate()["accuracy"], self.simulation.qv_loss()
        return _rounded(float(accuracy[env])), _rounded(float(loss[env]))

    def trace(self, env: int) -> dict[str, np.ndarray]:
        """The credits of a run so far, see `Batch.traces`."""
        return self._log.trace(env)

    def batch(self) -> Batch:
        """What all rounds have given."""
        simulation, comparison = self.simulation, self._comparison
        setup, count = simulation.setup, len(self._members)
        diverged = simulation.diverged | exploded(simulation.qv_loss(), simulation.initial_loss)
        common = {
            "task": comparison.task,
            "model": setup.model,
            "roles": comparison.roles,
            "partition": comparison.partition,
            "num_classes": setup.task.num_classes,
            "num_workers": comparison.num_workers,
            "rounds": comparison.rounds,
            "seconds": float(f"{(time.perf_counter() - self._started) / count:.4g}"),
            "version": byzgym.__version__,
        }
        runs = []
        for env, last in enumerate(self.curves[-count:]):
            measured = {
                "byzantine_credit": _rounded(self._log.byzantine_credit(env)),
                "detection_auc": _rounded(self._log.detection_auc(env)),
                "diverged": bool(diverged[env]),
            }
            runs.append({**common, **{k: v for k, v in last.items() if k != "round"}, **measured})
        traces = [self._log.trace(env) for env in range(count)]
        named = self._policy, str(comparison.task)
        # Beside runs with credits, those without have NaN.
        given = [bool(np.isfinite(trace.get("credits", np.nan)).any()) for trace in traces]
        models = [
            threat_model.record(*named, self.agent, simulation, env, credits=given[env])
            for env in range(count)
        ]
        return Batch(runs, self.curves, traces, models)

    def _play_round(self) -> None:
        simulation = self.simulation
        decision = self.agent.decide(self._view())
        credits = decision.credits
        if credits is not None:  # of each server, where there are several
            credits = credits.unflatten(0, (simulation.num_envs, -1)).mean(1)
        self.credits = credits
        self._note_who()
        self._log.add(self.round, credits, self.byzantine, self.workers)
        simulation.apply(decision)
        self.round += 1
        if self.round % self._comparison.interval == 0 or self.round == self._comparison.rounds:
            self._note_point()

    def _view(self) -> ServerView:
        """What the server knows, without what excluded workers have sent."""
        view = self.simulation.view
        if self._excluded is None:
            return view
        runs = len(view.rejected)
        out = self._excluded.expand(runs, -1) if view.workers is None else self._excluded[view.workers]
        gradients = view.gradients.masked_fill(out[..., None], 0)
        return replace(view, gradients=gradients, rejected=view.rejected | out)

    def _note_who(self) -> None:
        self.byzantine = self.simulation.byzantine_rows.clone()
        self.workers = self.simulation.workers.cohort.clone() if self._sampled else None

    def _note_point(self) -> None:
        """A point of each run's curve."""
        named = {"policy": self._policy, "num_byzantine": self._num_byzantine}
        metrics, losses = self.simulation.evaluate(), self.simulation.qv_loss()
        rates = metrics.get("attack_success_rate", torch.full_like(losses, torch.nan))
        measured = (metrics["accuracy"], rates, losses)
        names = ("accuracy", "attack_success_rate", "qv_loss")
        rows = zip(*(values.tolist() for values in measured), strict=True)
        for (attack, seed), row in zip(self._members, rows, strict=True):
            numbers = {name: _rounded(value) for name, value in zip(names, row, strict=True)}
            self.curves.append({**named, "attack": attack, "seed": seed, "round": self.round, **numbers})


def told_less(policy: str, agent: Agent, simulation: Simulation) -> list[Told]:
    """What rules were told, where that is less than the true f, or than the f that a rule's name asks for.

    An agent is a rule, or has some inside it.
    """
    found: list[Told] = []
    for inner in agent.inner:
        within = told_less(name_of(inner), inner, simulation)
        found += [replace(told, policy=policy, rule=told.rule or told.policy) for told in within]
    rule, f = getattr(agent, "policy", None), simulation.most_byzantine
    if isinstance(rule, Rule):
        largest, wanted = rule.max_byzantine(simulation.num_rows), parse(policy).get("num_byzantine", f)
        if rule.num_byzantine == largest < wanted:
            found.append(Told(policy, f, largest, rule.condition))
    return list(dict.fromkeys(found))  # a rule may be inside twice


def play_episodes(
    env: gymnasium.Env[Any, Any],
    predict: Callable[..., tuple[np.ndarray, Any]],
    episodes: int,
    seed: int,
    on_frame: Callable[[Any], None] | None = None,
) -> pd.DataFrame:
    """Play episodes, episode i from ``env.reset(seed=seed + i)``.

    Args:
        env: A `ByzantineAggregation-v0`.
        predict: As of an agent or a stable-baselines3 model.
        episodes: How many.
        seed: Of the first one.
        on_frame: Receives what ``env.render()`` returns, ten times an episode.

    Returns:
        One row an episode: seed, attack, return, accuracy, rounds, diverged, and attack_success_rate if an
        attack is a backdoor.
    """
    every = max(1, env.unwrapped.simulation.setup.rounds // 10)  # type: ignore[attr-defined]
    table = []
    for number in range(seed, seed + episodes):
        observation, info = env.reset(seed=number)
        state, start, total, rounds, done = None, np.array([True]), 0.0, 0, False
        while not done:
            action, state = predict(observation, state=state, episode_start=start, deterministic=True)
            observation, reward, terminated, truncated, info = env.step(action)
            total, rounds, start = total + float(reward), rounds + 1, np.array([False])
            done = terminated or truncated
            if on_frame is not None and (done or rounds % every == 0):
                on_frame(env.render())
        row = {"seed": number, "attack": info["attack"], "return": total, "accuracy": float(info["accuracy"])}
        row |= {"rounds": rounds, "diverged": bool(info["diverged"])}
        row |= {name: info[name] for name in ("attack_success_rate",) if name in info}
        table.append(row)
    return pd.DataFrame(table)


def _simulation(comparison: Comparison, num_byzantine: int, attacks: Iterable[str]) -> Simulation:
    """One environment for each of the attacks."""
    per_environment = [{"attack": attack} for attack in attacks]
    return Simulation.make(
        len(per_environment),
        seed=0,
        per_environment=per_environment,
        num_byzantine=num_byzantine,
        attack=per_environment[0]["attack"],
        **arguments(comparison, RunConfig),
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one CPU thread: the last bits of a sum depend on the number of threads, and results must not.

    Small models gain nothing by more, and what runs beside each other keeps the other cores busy.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _rounded(value: float) -> float:
    """Seven digits: all that a float32 holds."""
    return float(f"{float(value):.7g}")
