"""Playing comparisons (one batched simulation per policy and number of Byzantine workers) and episodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pandas as pd
import torch
from torch import Tensor

import byzgym
from byzgym import agents, aggregation
from byzgym.agents import Agent, BenignOnlyOracle, RuleAgent
from byzgym.agents.base import credits_if_any
from byzgym.agents.registry import registry as agent_registry
from byzgym.aggregation import Rule, accepted, checked_update, combine
from byzgym.envs import ENV_ID
from byzgym.envs.rewards import exploded
from byzgym.experiments import specs
from byzgym.experiments.config import Comparison
from byzgym.experiments.results import Results, Told, claim, discard_drawings
from byzgym.experiments.statistics import CreditLog
from byzgym.simulation import Simulation
from byzgym.validation import check_int

Predict = Callable[..., tuple[np.ndarray, Any]]

_FEW_NUMBERS = 2_000_000
"""Submissions of a round with fewer entries than this are worked on by one thread."""


class Batch(NamedTuple):
    """Rows of results.csv and curves.csv: one policy at one number f, all attacks and seeds."""

    runs: list[dict[str, Any]]
    curves: list[dict[str, Any]]


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
        FileExistsError: If the folder holds results and ``overwrite`` is False.
        OSError: If the folder cannot be written to, or another comparison is writing to it.
        ValueError, TypeError, OSError, RuntimeError: See `begin`.
    """
    results = begin(comparison)
    with claim(Path(folder), overwrite):
        play(results, Path(folder), progress)
    return results


def begin(comparison: Comparison) -> Results:
    """Results without runs, of a comparison that can run: every policy decides once under every attack.

    Raises:
        ValueError: If a value is not allowed.
        TypeError: If a parameter does not exist.
        OSError: If the data cannot be read.
        RuntimeError: If the task needs a library that does not work here.
    """
    told = []
    for f in comparison.num_byzantine:
        simulation = _simulation(comparison, f, comparison.attacks)
        for policy in comparison.policies:
            agent = install(policy, simulation)
            agent.reset()
            decide(agent, simulation)
            entry = told_less(policy, simulation)
            told += [] if entry is None else [entry]
    return Results(comparison, told, [policy for policy in comparison.policies if is_reference(policy)])


def play(results: Results, folder: Path, progress: Callable[[str, int], None]) -> None:
    """Play policy after policy; after each of them the files hold what is finished.

    Earlier results in the folder are replaced when the first policy has been played.

    Args:
        results: From `begin`; the runs are added to it.
        folder: Where the files are; the caller has claimed it.
        progress: Called with the policy and the number of rounds just played.
    """
    comparison = results.comparison
    for f in comparison.num_byzantine:
        for policy in comparison.policies:
            batch = play_batch(comparison, policy, f, partial(progress, policy))
            first = results.runs.empty
            results.add(*batch)
            results.write(folder)
            if first:
                discard_drawings(folder)


def play_batch(
    comparison: Comparison,
    policy: str,
    num_byzantine: int,
    progress: Callable[[int], None] = lambda rounds: None,
) -> Batch:
    """Play one policy under all attacks and seeds, side by side.

    A run that diverges goes on: the server refuses what is not finite and keeps its parameters.
    """
    started = time.perf_counter()
    members, rounds = comparison.members, comparison.rounds
    simulation = _simulation(comparison, num_byzantine, [attack for attack, _ in members])
    agent = install(policy, simulation)
    simulation.reset(comparison.simulation_seeds)
    agent.reset()
    log = CreditLog(rounds)
    with _enough_threads(simulation):
        points = {0: _measure(simulation)}
        for round in range(1, rounds + 1):
            update, credits = decide(agent, simulation)
            log.add(round - 1, credits, simulation.byzantine_rows)
            simulation.apply(update, credits)
            if round % comparison.interval == 0 or round == rounds:
                points[round] = _measure(simulation)
            progress(1)
    accuracy, loss = points[rounds]
    diverged = simulation.diverged | exploded(loss, simulation.initial_loss)
    common = {
        "task": specs.canonical(comparison.task),
        "model": comparison.model or simulation.settings.task.model,
        "roles": specs.canonical(comparison.roles),
        "partition": specs.canonical(comparison.partition),
        "num_workers": comparison.num_workers,
        "rounds": rounds,
        "seconds": float(f"{(time.perf_counter() - started) / len(members):.4g}"),
        "version": byzgym.__version__,
    }
    keys = [
        {"policy": policy, "attack": attack, "num_byzantine": num_byzantine, "seed": seed}
        for attack, seed in members
    ]
    batch = Batch([], [])
    for at, point in points.items():
        batch.curves.extend({**key, "round": at, **_row(point, env)} for env, key in enumerate(keys))
    for env, key in enumerate(keys):
        measured = {
            "byzantine_credit": _rounded(log.byzantine_credit(env)),
            "detection_auc": _rounded(log.detection_auc(env)),
            "diverged": bool(diverged[env]),
        }
        batch.runs.append({**common, **key, **_row((accuracy, loss), env), **measured})
    return batch


def is_reference(policy: str) -> bool:
    """Whether the policy sees more than a server would."""
    name = specs.parse(policy)["name"]
    return name in agent_registry.names() and getattr(agent_registry.factory(name), "reference", False)


def install(policy: str, simulation: Simulation) -> Agent:
    """Build a policy for a simulation that is then reset. A rule is told f, or the largest that it accepts.

    Raises:
        ValueError: If the name is unknown, or a rule accepts no f for so few workers.
        TypeError: If a parameter does not exist.
    """
    spec = specs.parse(policy)
    if not _is_rule(spec["name"]):
        name = spec.pop("name")
        known = name in agent_registry.names()
        factory = agent_registry.factory(name) if known else None
        if isinstance(factory, type) and issubclass(factory, BenignOnlyOracle):
            if spec:
                raise TypeError(f"{name} takes no parameters, got {policy!r}")
            spec["simulation"] = simulation
        return agents.make(name, **spec)
    rule = aggregation.make_within(spec, simulation.num_rows, simulation.most_byzantine)
    if isinstance(rule, Rule):
        rule.check(torch.zeros(simulation.num_rows, 1))
    simulation.rule = rule  # for attacks that declare this knowledge
    return RuleAgent(rule)


def told_less(policy: str, simulation: Simulation) -> Told | None:
    """What a rule is told where its condition does not admit the true f; None elsewhere."""
    spec, f = specs.parse(policy), simulation.most_byzantine
    if not _is_rule(spec["name"]) or "num_byzantine" in spec:
        return None
    rule = aggregation.make_within(spec, simulation.num_rows, f)
    told = getattr(rule, "num_byzantine", None)
    if told is None or told == f:
        return None
    return Told(policy, f, told, str(getattr(rule, "condition", "")))


def decide(agent: Agent, simulation: Simulation) -> tuple[Tensor, Tensor | None]:
    """The update [E, d] of this round, and the credits [E, n] that made it, None where none express it.

    Raises:
        TypeError, ValueError: If what the agent gives are no credits and no aggregate.
    """
    view = simulation.view
    credits = credits_if_any(agent, view)
    if credits is not None:
        credits = accepted(credits, view.rejected)
        return combine(credits, view.gradients), credits
    return checked_update(agent, agent.aggregate(view), view), None


def make_environment(arguments: Mapping[str, Any], render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """The Gymnasium environment with these keyword arguments.

    Raises:
        ValueError: If a value is not allowed.
        TypeError: If a parameter does not exist.
    """
    return gymnasium.make(ENV_ID, render_mode=render_mode, disable_env_checker=True, **arguments)


def play_episodes(
    env: gymnasium.Env[Any, Any],
    predict: Predict,
    episodes: int,
    seed: int,
    on_frame: Callable[[Any], None] | None = None,
) -> pd.DataFrame:
    """Play episodes, episode i from ``env.reset(seed=seed + i)``.

    Args:
        env: A `ByzantineAggregation-v0`.
        predict: As of an agent or a stable-baselines3 model.
        episodes: At least 1.
        seed: Of the first episode, at least 0.
        on_frame: Receives what ``env.render()`` returns, ten times an episode.

    Returns:
        One row an episode: seed, attack, return, accuracy, rounds, diverged.

    Raises:
        ValueError: If a number is not allowed.
    """
    check_int("episodes", episodes, low=1)
    check_int("seed", seed, low=0)
    return pd.DataFrame([_episode(env, predict, seed + number, on_frame) for number in range(episodes)])


def _episode(
    env: gymnasium.Env[Any, Any], predict: Predict, seed: int, on_frame: Callable[[Any], None] | None
) -> dict[str, Any]:
    simulation: Any = env.unwrapped.simulation  # type: ignore[attr-defined]
    every = max(1, simulation.settings.rounds // 10)
    observation, info = env.reset(seed=seed)
    state, start, total, rounds, done = None, np.array([True]), 0.0, 0, False
    while not done:
        action, state = predict(observation, state=state, episode_start=start, deterministic=True)
        observation, reward, terminated, truncated, info = env.step(action)
        total, rounds, start = total + float(reward), rounds + 1, np.array([False])
        done = terminated or truncated
        if on_frame is not None and (done or rounds % every == 0):
            on_frame(env.render())
    return {
        "seed": seed,
        "attack": simulation.attack_names[0],
        "return": total,
        "accuracy": float(info["accuracy"]),
        "rounds": rounds,
        "diverged": bool(info["diverged"]),
    }


def _simulation(comparison: Comparison, num_byzantine: int, attacks: Iterable[str]) -> Simulation:
    """One environment for each of the attacks."""
    one_each = [specs.parse(attack) for attack in attacks]
    return Simulation.make(
        len(one_each),
        seed=0,
        per_environment=[{"attack": attack} for attack in one_each],
        num_byzantine=num_byzantine,
        attack=one_each[0],
        **comparison.simulation_arguments(),
    )


def _is_rule(name: str) -> bool:
    """Whether a policy's name is a rule's; an agent of that name goes before it."""
    return name in aggregation.names() and name not in agent_registry.names()


@contextmanager
def _enough_threads(simulation: Simulation) -> Iterator[None]:
    """One CPU thread for small models: more gain nothing there, and stall where other work runs beside."""
    threads = torch.get_num_threads()
    if simulation.gradients.numel() < _FEW_NUMBERS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _measure(simulation: Simulation) -> tuple[Tensor, Tensor]:
    """Test accuracy [E] and QV loss [E]."""
    return simulation.evaluate()["accuracy"], simulation.qv_loss()


def _row(point: tuple[Tensor, Tensor], env: int) -> dict[str, float]:
    accuracy, loss = point
    return {"accuracy": _rounded(accuracy[env]), "qv_loss": _rounded(loss[env])}


def _rounded(value: Tensor | float) -> float:
    """Seven digits: all that a float32 holds."""
    return float(f"{float(value):.7g}")
