"""Playing comparisons (one batched simulation per policy and number of Byzantine workers) and episodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import torch
from torch import Tensor

import byzgym
from byzgym import agents, specs
from byzgym.agents import Agent
from byzgym.aggregation import Rule
from byzgym.ambient import episode_seed
from byzgym.envs.rewards import exploded
from byzgym.experiments.config import Comparison, arguments
from byzgym.experiments.results import Results, Told, claim, discard_drawings
from byzgym.experiments.statistics import CreditLog
from byzgym.simulation import Simulation
from byzgym.simulation.config import RunConfig

_FEW_NUMBERS = 2_000_000
"""Submissions of a round with fewer entries than this are worked on by one thread."""


def compare(
    comparison: Comparison,
    folder: str | Path,
    overwrite: bool = False,
    progress: Callable[[str, int], None] = lambda policy, rounds: None,
) -> Results:
    """Check a comparison, play it, and write its files.

    Args:
        comparison: What to play.
        folder: Where results.csv, curves.csv and config.json go.
        overwrite: Whether results in the folder may be replaced.
        progress: Called with the policy and the number of rounds just played.

    Raises:
        ValueError: If a value is not allowed.
        TypeError: If a parameter does not exist.
        OSError: If the folder holds results, cannot be written to or is in use, or data cannot be read.
        RuntimeError: If the task needs a library that does not work here.
    """
    results = begin(comparison)
    with claim(Path(folder), overwrite):
        play(results, Path(folder), progress)
    return results


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
            told = told_less(policy, agent, simulation)
            if told is not None:
                results.told.append(told)
            if agent.reference and policy not in results.references:
                results.references.append(policy)
            notes = [f"{policy}: {line}" for line in agent.differences(arguments(comparison, RunConfig))]
            results.notes += [note for note in notes if note not in results.notes]
    return results


def play(results: Results, folder: Path, progress: Callable[[str, int], None]) -> None:
    """Play policy after policy, and add the runs to results from `begin`, and to the files after each policy.

    Earlier results in the folder, which the caller has claimed, are replaced after the first policy.
    """
    comparison = results.comparison
    for f in comparison.num_byzantine:
        for policy in comparison.policies:
            runs, curves = play_batch(comparison, policy, f, partial(progress, policy))
            first = results.runs.empty
            results.add(runs, curves)
            results.write(folder)
            if first:
                discard_drawings(folder)


def play_batch(
    comparison: Comparison,
    policy: str,
    num_byzantine: int,
    progress: Callable[[int], None] = lambda rounds: None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Play one policy under all attacks and seeds, side by side.

    A run that diverges goes on: the server refuses what is not finite and keeps its parameters.

    Returns:
        Rows of results.csv and rows of curves.csv.
    """
    started, rounds = time.perf_counter(), comparison.rounds
    seeds = range(comparison.first_seed, comparison.first_seed + comparison.seeds)
    members = [(attack, seed) for attack in comparison.attacks for seed in seeds]
    simulation = _simulation(comparison, num_byzantine, [attack for attack, _ in members])
    agent = agents.build(policy, simulation)
    # Seed s gives what env.reset(seed=s) gives.
    simulation.reset([episode_seed(np.random.default_rng(seed)) for _, seed in members])
    agent.reset()
    log = CreditLog(rounds)
    named = {"policy": policy, "num_byzantine": num_byzantine}
    keys = [{**named, "attack": attack, "seed": seed} for attack, seed in members]
    interval = comparison.evaluate_every or max(1, rounds // 30)
    with _enough_threads(simulation):
        curves = _points(simulation, 0, keys)
        for round in range(1, rounds + 1):
            decision = agent.decide(simulation.view)
            credits = decision.credits
            if credits is not None:  # of each server, where there are several
                credits = credits.unflatten(0, (simulation.num_envs, -1)).mean(1)
            log.add(round - 1, credits, simulation.byzantine_rows)
            simulation.apply(decision)
            if round % interval == 0 or round == rounds:
                curves += _points(simulation, round, keys)
            progress(1)
    diverged = simulation.diverged | exploded(simulation.qv_loss(), simulation.initial_loss)
    common = {
        "task": comparison.task,
        "model": simulation.setup.model,
        "roles": comparison.roles,
        "partition": comparison.partition,
        "num_workers": comparison.num_workers,
        "rounds": rounds,
        "seconds": float(f"{(time.perf_counter() - started) / len(members):.4g}"),
        "version": byzgym.__version__,
    }
    runs = []
    for env, last in enumerate(curves[-len(members) :]):
        measured = {
            "byzantine_credit": _rounded(log.byzantine_credit(env)),
            "detection_auc": _rounded(log.detection_auc(env)),
            "diverged": bool(diverged[env]),
        }
        runs.append({**common, **last, **measured})
    return runs, curves


def told_less(policy: str, agent: Agent, simulation: Simulation) -> Told | None:
    """What a rule was told, where that is less than the true f, or than the f that its name asks for."""
    rule, f = getattr(agent, "policy", None), simulation.most_byzantine
    if not isinstance(rule, Rule):
        return None
    largest, wanted = rule.max_byzantine(simulation.num_rows), specs.parse(policy).get("num_byzantine", f)
    return Told(policy, f, largest, rule.condition) if rule.num_byzantine == largest < wanted else None


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
        One row an episode: seed, attack, return, accuracy, rounds, diverged.
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
        table.append({**row, "rounds": rounds, "diverged": bool(info["diverged"])})
    return pd.DataFrame(table)


def _simulation(comparison: Comparison, num_byzantine: int, attacks: Iterable[str]) -> Simulation:
    """One environment for each of the attacks."""
    per_environment = [{"attack": attack} for attack in attacks]
    return Simulation.make(
        len(per_environment),
        seed=0,
        per_environment=per_environment,
        num_byzantine=num_byzantine,
        attack=comparison.attacks[0],
        **arguments(comparison, RunConfig),
    )


@contextmanager
def _enough_threads(simulation: Simulation) -> Iterator[None]:
    """Use one CPU thread for small models: more gain nothing, and stall where other work runs beside."""
    threads = torch.get_num_threads()
    if simulation.gradients.numel() < _FEW_NUMBERS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _points(simulation: Simulation, round: int, keys: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A point of each run's curve."""
    measured = zip(simulation.evaluate()["accuracy"], simulation.qv_loss(), strict=True)
    return [
        {**key, "round": round, "accuracy": _rounded(accuracy), "qv_loss": _rounded(loss)}
        for key, (accuracy, loss) in zip(keys, measured, strict=True)
    ]


def _rounded(value: Tensor | float) -> float:
    """Seven digits: all that a float32 holds."""
    return float(f"{float(value):.7g}")
