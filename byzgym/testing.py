"""Checks for what you add: do your rule, attack, task, policy and environment keep what byzgym relies on?

Each check takes the thing itself, or a name with which it is registered, plays with it for a moment and raises a
`CheckError` that says what is wrong. byzgym's own tests run them over everything that is registered.

Example:
    >>> check_rule("krum")
    >>> check_attack("ipm:epsilon=0.5")
    >>> check_rule(lambda gradients: gradients[..., 0, :])
    Traceback (most recent call last):
    byzgym.testing.CheckError: rule <lambda>: the aggregate depends on the order of the workers
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from byzgym import agents, aggregation, attacks, specs, tasks
from byzgym.aggregation import Decision, NotLinearError, Rule, ServerRule, ServerView
from byzgym.memory import Memory
from byzgym.registry import describe
from byzgym.simulation import Simulation

ENVS, WORKERS, DIMENSION, ROUNDS = 3, 11, 40, 6
TINY: dict[str, Any] = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "batch_size": 4, "rounds": ROUNDS}
OVERFLOW = {"name": "omniscient", "factor": 3e38}
"""An attack whose submissions are rejected."""


class CheckError(AssertionError):
    """What is wrong with the thing that was checked."""


def check_rule(rule: Any, num_byzantine: int = 2) -> None:
    """Check a rule: a name, "name:key=value", a mapping, a `Rule` or a callable ``gradients -> vector``.

    Shapes and types, batches equal loops, no dependence on the workers' order, no writes into the input, no global
    randomness, credits, rejected submissions, copies; for a `ServerRule` its memory and its snapshots as well.

    Raises:
        CheckError: If one of these fails; the message says which.
    """
    made = aggregation.make_for(rule, WORKERS, num_byzantine)
    say = _Speaker(f"rule {describe(rule)}")
    _check_json(rule, say)
    if isinstance(made, ServerRule):
        _check_server_rule(made, say)
        return
    rows = _normal(ENVS, WORKERS, DIMENSION)
    with _untouched(say, "its input", [rows]), _no_global_randomness(say):
        total = made(rows)
    say.that(isinstance(total, Tensor) and total.shape == rows.shape[::2], "the aggregate must have shape [..., d]")
    say.that(total.dtype == rows.dtype, "the aggregate must have the type of the submissions")
    say.close(made(rows), total, "two calls with one input differ")
    say.close(torch.stack([made(row) for row in rows]), total, "a batch differs from a loop")
    order = torch.arange(WORKERS)
    if made.symmetric:
        order = torch.randperm(WORKERS, generator=torch.Generator().manual_seed(0))
    say.close(made(rows[:, order]), total, "the aggregate depends on the order of the workers")
    say.close(copy.deepcopy(made)(rows), total, "a copy of the rule differs")
    spoiled, other = rows.clone(), rows.clone()
    spoiled[:, 4, 3], other[:, 4] = torch.nan, torch.inf
    say.that(made(spoiled).isfinite().all(), "a rejected submission spoils the aggregate")
    say.close(made(spoiled), made(other), "the aggregate depends on what a rejected submission holds")
    for given, told in ((rows, total), (spoiled, made(spoiled))):
        decision = made.decide(_view(given))
        say.close(decision.update, told, "decide(view) differs from a call")
        say.that((decision.credits is None) != made.linear, "linear must say whether decisions have credits")
    if made.linear:
        credits = made.credits(rows)
        _check_credits(credits, (ENVS, WORKERS), say)
        say.close(aggregation.combine(credits, rows), total, "the aggregate is not the weighted sum of its credits")
        say.close(made.credits(rows[:, order]), credits[:, order], "the credits depend on the order of the workers")
        say.that(not made.credits(spoiled)[:, 4].any(), "a rejected submission gets credit")
    else:
        say.raises(NotLinearError, lambda: made.credits(rows), "a rule without credits must raise NotLinearError")


def _check_server_rule(rule: ServerRule, say: _Speaker) -> None:
    """Check a rule with a memory or with the server's data, over some rounds."""
    rounds = [_normal(ENVS, WORKERS, DIMENSION, seed=seed) for seed in range(ROUNDS)]
    say.raises(TypeError, lambda: rule(rounds[0]), "a tensor alone must be refused with a TypeError")
    if "memory" in rule.needs:
        say.raises(ValueError, lambda: rule.decide(_view(rounds[0])), "a view without memory must be refused")
    memory, fresh = Memory(ENVS), copy.deepcopy(rule)
    decided = []
    for round, rows in enumerate(rounds):
        view = _view(rows, memory, round)
        with _untouched(say, "the view", [view.gradients, view.theta, view.previous_update]):
            with _no_global_randomness(say):
                decided.append(rule.decide(view))
        _check_decision(decided[-1], view, rule.linear, say)
        if round == 2:
            state = copy.deepcopy(memory.state())
    for env in range(ENVS):
        alone = Memory(1)
        for round, rows in enumerate(rounds):
            update = fresh.decide(_view(rows[env : env + 1], alone, round)).update[0]
            say.close(update, decided[round].update[env], "a batch differs from a loop")
    again = Memory(ENVS)
    again.load(state)
    for round in range(3, ROUNDS):
        update = fresh.decide(_view(rounds[round], again, round)).update
        say.close(update, decided[round].update, "the rule keeps something outside view.memory")
    spoiled = rounds[0].clone()
    spoiled[:, 4, 3] = torch.nan
    decision = rule.decide(_view(spoiled, Memory(ENVS)))
    say.that(decision.update.isfinite().all(), "a rejected submission spoils the update")
    if decision.credits is not None:
        say.that(not decision.credits[:, 4].any(), "a rejected submission gets credit")


def check_attack(attack: Any) -> None:
    """Check an attack: a name, "name:key=value", a mapping or a callable ``(gradients, byzantine, context)``.

    Shapes, honest rows, no writes into the input, randomness from the context alone, batches equal loops, and nothing
    kept outside ``context.memory``: episodes and snapshots repeat.

    Raises:
        CheckError: If one of these fails; the message says which.
    """
    made = attacks.make_from(attack)
    say = _Speaker(f"attack {describe(attack)}")
    _check_json(attack, say)
    rows = _normal(ENVS, WORKERS, DIMENSION)
    byzantine = torch.arange(WORKERS) < torch.tensor([[0], [4], [9]])
    if isinstance(made, attacks.Attack):
        with _untouched(say, "its input", [rows, byzantine]), _no_global_randomness(say):
            sent = made(rows, byzantine, attacks.AttackContext.standalone(rows))
        say.that(sent.shape == rows.shape, "submissions must have shape [E, n, d]")
        if made.scope == "workers":
            say.close(sent[~byzantine], rows[~byzantine], "honest submissions change")
        if not made.reads_own:
            blind = rows.masked_fill(byzantine[..., None], torch.nan)
            seen = made(blind, byzantine, attacks.AttackContext.standalone(rows))
            say.close(seen[byzantine], sent[byzantine], "reads_own is False, but Byzantine rows are read")
    simulation = Simulation.make(ENVS, seed=0, **TINY, attack=attack)
    with _no_global_randomness(say):
        first = _play(simulation, list(range(ENVS)))
    say.same(_play(simulation, list(range(ENVS))), first, "an episode with the same seed differs: state is kept")
    single = Simulation.make(1, seed=0, **TINY, attack=attack)
    for env in range(ENVS):
        alone = _play(single, [env])
        say.same([row[0] for row in alone], [row[env] for row in first], "a batch differs from a loop")
    simulation.reset(list(range(ENVS)))
    snapshot = None
    for round, rows in enumerate(first):
        say.close(simulation.gradients, rows, "an episode differs after a snapshot")
        if round == 2:
            snapshot = simulation.snapshot()
        simulation.apply(simulation.gradients.mean(1))
    assert snapshot is not None
    simulation.restore(snapshot)
    for rows in first[2:]:
        say.close(simulation.gradients, rows, "a restored snapshot goes on otherwise: state outside context.memory")
        simulation.apply(simulation.gradients.mean(1))


def check_task(task: Any) -> None:
    """Check a task: a name, "name:key=value", a mapping or a `Task`.

    It must be a `Task` that a model can be trained on, the same each time it is made, and read nothing from global
    random generators; training writes into none of its data.

    Raises:
        CheckError: If one of these fails; the message says which.
    """
    say = _Speaker(f"task {describe(task)}")
    _check_json(task, say)
    with _no_global_randomness(say):
        made, again = tasks.make_from(task), tasks.make_from(task)
    say.that(isinstance(made, tasks.Task), "the factory must return a Task")
    parts = [*made.train, *made.test, *(made.held_out or ())]
    for one, other in zip(parts, [*again.train, *again.test, *(again.held_out or ())], strict=True):
        say.that(torch.equal(one, other), "made twice, its data differ")
    arguments = {"num_workers": 2, "num_byzantine": 0, "attack": "none", "qv_size": 1}
    with _untouched(say, "its data", parts), _no_global_randomness(say):
        simulation = Simulation.make(1, seed=0, task=task, **arguments)
        before = simulation.view.theta.clone()
        for _ in range(3):
            simulation.apply(simulation.gradients.mean(1))
        metrics = simulation.evaluate()
    say.that(not torch.equal(simulation.view.theta, before), "its gradients are all zero")
    say.that(bool(metrics["test_loss"].isfinite().all()), "the test loss is not finite")


def check_policy(policy: Any) -> None:
    """Check a policy: a name, "name:key=value", a mapping, or an object with decide, credits or aggregate.

    Decisions fit, rejected submissions get no credit, nothing is written into the view, no global randomness, episodes
    repeat after a reset, copies go on alike, `predict` acts in the environment, and only a marked reference asks for
    the simulation.

    Raises:
        CheckError: If one of these fails; the message says which.
    """
    say = _Speaker(f"policy {describe(policy)}")
    _check_json(policy, say)
    seeds = list(range(ENVS))
    for attack in ("gaussian", OVERFLOW):
        simulation = Simulation.make(ENVS, seed=0, **TINY, attack=attack)
        agent = agents.build(policy, simulation)
        say.that(agent.reference or not _wants_simulation(policy), "it asks for the simulation: set reference = True")
        traces = []
        for _ in range(2):
            simulation.reset(seeds)
            agent.reset()
            traces.append(_decisions(agent, simulation, say))
        say.same(traces[1], traces[0], "after reset() an episode with the same seed differs")
    for rounds in (1, 3):
        simulation.reset(seeds)
        agent.reset()
        _decisions(agent, simulation, say, rounds)
        if agent.reference:
            continue
        twin, snapshot = copy.deepcopy(agent), simulation.snapshot()
        expected = _decisions(agent, simulation, say, 3)
        simulation.restore(snapshot)
        say.same(_decisions(twin, simulation, say, 3), expected, "a deep copy goes on otherwise")
    env: Any = gym.make(
        "ByzantineAggregation-v0", disable_env_checker=True, **TINY, action="credits" if agent.linear else "update"
    )
    bound = agents.make_from(policy).bind(env)
    observation, _ = env.reset(seed=0)
    for _ in range(2):
        action, _ = bound.predict(observation)
        say.that(env.action_space.contains(action), "predict gives an action outside the action space")
        observation, *_ = env.step(action)


def check_env(env: gym.Env[Any, Any]) -> None:
    """Check an environment: Gymnasium's and stable-baselines3's checkers, and what byzgym promises beside.

    Two episodes with one seed are identical, observations and info are fresh each time, rewards are finite, no global
    random generator moves, and the spec (if there is one) survives JSON.

    Args:
        env: Made by ``gym.make``, wrapped or not.

    Raises:
        CheckError: If one of these fails; the message says which.
    """
    from gymnasium.utils.env_checker import check_env as check_with_gymnasium
    from stable_baselines3.common.env_checker import check_env as check_with_sb3

    say = _Speaker(f"environment {env.spec.id if env.spec else env}")
    env.action_space.seed(0)
    check_with_gymnasium(env.unwrapped, skip_render_check=True)
    check_with_sb3(env, warn=False, skip_render_check=True)
    actions = [env.action_space.sample() for _ in range(4)]
    with _no_global_randomness(say):
        first, again = (_rollout(env, actions, say) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        say.that(_equal(one, other), "two episodes with one seed differ")
    if env.spec is not None:
        restored = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
        twin = gym.make(restored, disable_env_checker=True)
        for one, other in zip(first, _rollout(twin, actions, say), strict=True):
            say.that(_equal(one, other), "an environment made from its own spec differs")


class _Speaker:
    """Raises errors that begin with the name of what is checked."""

    def __init__(self, subject: str) -> None:
        self.subject = subject

    def that(self, holds: Any, problem: str) -> None:
        if not holds:
            raise CheckError(f"{self.subject}: {problem}")

    def close(self, one: Tensor, other: Tensor, problem: str) -> None:
        same = one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)
        self.that(same, problem)

    def same(self, one: list[Tensor], other: list[Tensor], problem: str) -> None:
        self.that(len(one) == len(other), problem)
        for left, right in zip(one, other, strict=True):
            self.close(left, right, problem)

    def raises(self, kind: type[Exception], call: Callable[[], Any], problem: str) -> None:
        try:
            call()
        except kind:
            return
        raise CheckError(f"{self.subject}: {problem}")


@contextmanager
def _untouched(say: _Speaker, what: str, tensors: list[Tensor]) -> Iterator[None]:
    before = [tensor.clone() for tensor in tensors]
    yield
    unchanged = all(torch.equal(old, new) for old, new in zip(before, tensors, strict=True))
    say.that(unchanged, f"it writes into {what}")


@contextmanager
def _no_global_randomness(say: _Speaker) -> Iterator[None]:
    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()]  # noqa: NPY002

    before = states()
    yield
    say.that(states() == before, "it draws from a global random generator; draw from the generator it is given")


def _check_json(spec: Any, say: _Speaker) -> None:
    if isinstance(spec, Mapping):
        try:
            restored = json.loads(json.dumps(spec))
        except TypeError:
            return  # holds an object, which users may do at their own risk
        say.that(restored == dict(spec), "its parameters change when written to JSON and read again")


def _check_credits(credits: Tensor, shape: tuple[int, ...], say: _Speaker) -> None:
    say.that(credits.shape == shape, f"credits must have shape {list(shape)}")
    say.that((credits >= 0).all() and (credits.sum(-1) <= 1 + 1e-3).all(), "credits must lie on the simplex")


def _check_decision(decision: Any, view: ServerView, linear: bool, say: _Speaker) -> None:
    say.that(isinstance(decision, Decision), "decide must return a Decision")
    say.that(decision.update.shape == view.theta.shape, "the update must have shape [E, d]")
    say.that((decision.credits is None) != linear, "linear must say whether decisions have credits")
    if decision.credits is not None:
        _check_credits(decision.credits, (view.num_envs, view.num_workers), say)
        say.that(not decision.credits[view.rejected].any(), "a rejected submission gets credit")


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _view(rows: Tensor, memory: Memory | None = None, round: int = 0) -> ServerView:
    num_envs, _, dimension = rows.shape
    return ServerView(
        gradients=rows.clone(),
        theta=torch.zeros(num_envs, dimension),
        learning_rate=0.1,  # type: ignore[arg-type]
        qv_loss=lambda theta: (theta - 1).square().mean(1),
        round=torch.full((num_envs,), round),
        memory=memory,
    )


def _play(simulation: Simulation, seeds: list[int]) -> list[Tensor]:
    """The submissions of an episode's rounds under the mean."""
    simulation.reset(seeds)
    seen = []
    for _ in range(ROUNDS):
        seen.append(simulation.gradients.clone())
        simulation.apply(simulation.gradients.mean(1))
    return seen


def _decisions(agent: agents.Agent, simulation: Simulation, say: _Speaker, rounds: int = ROUNDS) -> list[Tensor]:
    """The updates of some rounds, each checked."""
    updates = []
    for _ in range(rounds):
        view = simulation.view
        tensors = [view.gradients, view.theta, view.previous_update, view.previous_credits, view.rejected]
        with _untouched(say, "the view", tensors), _no_global_randomness(say):
            decision = agent.decide(view)
        _check_decision(decision, view, agent.linear, say)
        updates.append(decision.update.clone())
        simulation.apply(decision)
    return updates


def _wants_simulation(policy: Any) -> bool:
    spec = specs.parse(policy) if isinstance(policy, str) else policy
    if not isinstance(spec, Mapping) or spec["name"] not in agents.registry.registry.names():
        return False
    return agents.registry.registry.takes(spec["name"], "simulation")


def _rollout(env: Any, actions: list[Any], say: _Speaker) -> list[Any]:
    """What `reset` and some steps return."""
    seen = [env.reset(seed=3)]
    for action in actions:
        seen.append(env.step(action))
        say.that(np.isfinite(seen[-1][1]), "a reward is not finite")
        if seen[-1][2] or seen[-1][3]:
            break
    kept = copy.deepcopy(seen)
    env.reset(seed=4)
    say.that(_equal(kept, seen), "observations or info are overwritten later")
    return kept


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))
    return bool(one == other)
