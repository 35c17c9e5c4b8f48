"""Checks for what you add: do your rule, attack, task, policy and environment keep what byzgym relies on?

Each check takes a name, "name:key=value", a mapping with a "name", or the object itself, plays with it for a
moment, and raises a `CheckError` that says what is wrong. The tests run them over all that is registered.

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from byzgym import agents, aggregation, attacks, tasks
from byzgym.aggregation import CallableRule, Decision, NotLinearError, Rule, ServerRule, ServerView
from byzgym.memory import Memory
from byzgym.registry import describe
from byzgym.simulation import Simulation

ENVS, WORKERS, DIMENSION, ROUNDS = 3, 11, 40, 6
SEEDS = range(ENVS)
TINY: Any = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "batch_size": 4, "rounds": ROUNDS}
OVERFLOW = {"name": "omniscient", "factor": 3e38}
"""An attack whose submissions are rejected."""


class CheckError(AssertionError):
    """What is wrong with the thing that was checked. An error that it raised itself is the cause."""


def check_rule(rule: Any, num_byzantine: int = 2) -> None:
    """Check a rule: a name, "name:key=value", a mapping, a `Rule` or a callable ``gradients -> vector``.

    Shapes and types, batches equal loops, no dependence on the workers' order, no writes into the input, no
    global randomness, credits, rejected submissions, copies; for a `ServerRule` also memory and snapshots.
    """
    with _checking("rule", rule):
        made = aggregation.make_for(rule, WORKERS, num_byzantine)
        if isinstance(made, ServerRule):
            _check_server_rule(made)
        else:
            _check_tensor_rule(made)


def check_pre_aggregator(pre: Any, num_byzantine: int = 2) -> None:
    """Check a pre-aggregator: a name, "name:key=value", a mapping, a `PreAggregator` or a callable.

    Shapes and types, batches equal loops, no dependence on the workers' order (unless it says so), no writes
    into the input, no global randomness, its mixing matrix, rejected submissions, copies; and all that
    `check_rule` checks, with it in front of the mean, of the median and of a rule with a memory.
    """
    with _checking("pre-aggregator", pre):
        made = aggregation.pre.make_from(pre, num_byzantine)
        _check_pre_aggregator(made.told(num_byzantine))
        for rule in ("mean", "median", "trust"):
            composed = aggregation.make_for({"name": rule, "pre": [made]}, WORKERS, num_byzantine)
            if isinstance(composed, ServerRule):
                _check_server_rule(composed)
            else:
                _check_tensor_rule(composed)


def check_attack(attack: Any) -> None:
    """Check an attack: a name, "name:key=value", a mapping or a callable ``(gradients, byzantine, context)``.

    Shapes, honest rows, no writes into the input, randomness from the context alone, batches equal loops, and
    nothing kept outside ``context.memory``: episodes and snapshots repeat.
    """
    with _checking("attack", attack):
        made = attacks.make_from(attack)
        if isinstance(made, attacks.Attack):
            _check_attack_call(made)
        simulation = Simulation.make(ENVS, seed=0, **TINY, attack=attack)
        _check_repeats(simulation, {"attack": attack}, _play)


def check_roles(roles: Any) -> None:
    """Check a role function: a name, "name:key=value", a mapping or a callable.

    It answers with a mask, writes into nothing, draws from the context alone, batches equal loops, and it
    keeps nothing outside ``context.memory``: episodes and snapshots repeat.
    """
    with _checking("roles", roles):
        made = attacks.roles.make_from(roles)
        mask = torch.arange(WORKERS) < torch.tensor([[0], [4], [9]])
        rows = _normal(ENVS, WORKERS, DIMENSION)
        with _untouched("its input", mask), _no_global_randomness():
            answer = made(mask, mask, attacks.AttackContext.standalone(rows))
        _expect(
            answer.shape == mask.shape and answer.dtype == torch.bool, "it must return a bool mask [E, n]"
        )
        simulation = Simulation.make(ENVS, seed=0, **TINY, roles=roles, attack="zero")
        _check_repeats(simulation, {"roles": roles, "attack": "zero"}, _play_roles)


def check_task(task: Any) -> None:
    """Check a task: a name, "name:key=value", a mapping or a `Task`.

    A model can be trained on it, it is the same each time it is made, and it reads nothing from global random
    generators; training writes into none of its data.
    """
    with _checking("task", task):
        with _no_global_randomness():
            data, again = _data(tasks.make_from(task)), _data(tasks.make_from(task))
        _expect(len(data) == len(again) and all(map(torch.equal, data, again)), "made twice, its data differ")
        with _untouched("its data", *data), _no_global_randomness():
            simulation = Simulation.make(1, 0, task=task, num_workers=2, attack="none", qv_size=1)
            theta = simulation.view.theta.clone()
            _play(simulation, 3)
            metrics = simulation.evaluate()
        _expect(not torch.equal(simulation.view.theta, theta), "its gradients are all zero")
        _expect(metrics["test_loss"].isfinite().all(), "the test loss is not finite")


def check_policy(policy: Any) -> None:
    """Check a policy: a name, "name:key=value", a mapping, or an object with decide, credits or aggregate.

    Decisions fit, rejected submissions get no credit, nothing is written into the view, no global randomness,
    episodes repeat after a reset, copies go on alike, `predict` acts in the environment, and only a marked
    reference asks for the simulation.
    """
    with _checking("policy", policy):
        for attack in ("gaussian", OVERFLOW):
            simulation = Simulation.make(ENVS, seed=0, **TINY, attack=attack)
            agent = agents.build(policy, simulation)
            first, again = (_begin(agent, simulation, ROUNDS) for _ in range(2))
            if attack != OVERFLOW:  # under which a mean overflows
                _expect_finite(first[0], "the update must be finite in round 0")
            _expect_same(again, first, "after reset() an episode with the same seed differs")
        for rounds in () if agent.reference else (1, 3):  # a copied reference would see a copied simulation
            _begin(agent, simulation, rounds)
            twin, snapshot = copy.deepcopy(agent), simulation.snapshot()
            updates = _decide(agent, simulation, 3)
            simulation.restore(snapshot)
            _expect_same(_decide(twin, simulation, 3), updates, "a deep copy goes on otherwise")
        action = "credits" if agent.linear else "update"
        env: Any = gym.make("ByzantineAggregation-v0", disable_env_checker=True, **TINY, action=action)
        bound = agents.make_from(policy).bind(env)
        observation, _ = env.reset(seed=0)
        for _ in range(2):
            chosen, _ = bound.predict(observation)
            _expect(env.action_space.contains(chosen), "predict gives an action outside the action space")
            observation, *_ = env.step(chosen)


def check_env(env: str | EnvSpec | gym.Env[Any, Any]) -> None:
    """Check an environment: with Gymnasium's and stable-baselines3's checkers, and for what byzgym promises.

    Two episodes with one seed are identical, observations and info are fresh each time, rewards are finite,
    no global random generator moves, and the spec (if there is one that can be JSON) survives JSON.

    Args:
        env: A registered id, a spec, or what ``gym.make`` has returned, wrapped or not.
    """
    from gymnasium.utils.env_checker import check_env as check_with_gymnasium
    from stable_baselines3.common.env_checker import check_env as check_with_sb3

    spec = env if isinstance(env, str | EnvSpec) else env.spec
    with _checking("environment", getattr(spec, "id", spec) or env):
        made: gym.Env[Any, Any] = gym.make(env) if isinstance(env, str | EnvSpec) else env
        made.action_space.seed(0)
        check_with_gymnasium(made.unwrapped, skip_render_check=True)
        check_with_sb3(made, warn=False, skip_render_check=True)
        actions = [made.action_space.sample() for _ in range(4)]
        with _no_global_randomness():
            episode, again = _rollout(made, actions), _rollout(made, actions)
        _expect(_equal(episode, again), "two episodes with one seed differ")
        if made.spec is None:
            return
        try:
            text = made.spec.to_json()
        except (TypeError, ValueError):
            return  # holds an object, which users may do at their own risk
        twin = gym.make(EnvSpec.from_json(text), disable_env_checker=True)
        _expect(_equal(episode, _rollout(twin, actions)), "an environment made from its own spec differs")


@contextmanager
def _checking(kind: str, thing: Any) -> Iterator[None]:
    """Begin all errors with the name of what is checked."""
    subject = f"{kind} {describe(thing)}"
    try:
        if isinstance(thing, Mapping):
            _check_json(thing)
        yield
    except CheckError as error:
        raise CheckError(f"{subject}: {error}") from None
    except Exception as error:
        raise CheckError(f"{subject}: {type(error).__name__}: {error}") from error


def _expect(holds: Any, problem: str) -> None:
    if not holds:
        raise CheckError(problem)


def _expect_same(ones: Iterable[Tensor], others: Iterable[Tensor], problem: str) -> None:
    for one, other in zip(ones, others, strict=True):
        _expect(one.shape == other.shape, problem)
        which = ": it returned NaN in one of them" if (one.isnan() != other.isnan()).any() else ""
        _expect(torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True), problem + which)


def _expect_finite(values: Tensor, problem: str) -> None:
    _expect(
        values.isfinite().all(), f"{problem}: it returned {'NaN' if values.isnan().any() else 'infinity'}"
    )


@contextmanager
def _refused(kind: type[Exception], problem: str) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise CheckError(problem)


@contextmanager
def _untouched(what: str, *tensors: Tensor) -> Iterator[None]:
    before = [tensor.clone() for tensor in tensors]
    yield
    _expect(all(map(torch.equal, before, tensors)), f"it writes into {what}")


@contextmanager
def _no_global_randomness() -> Iterator[None]:
    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()]  # noqa: NPY002

    before = states()
    yield
    _expect(states() == before, "it uses a global random generator; draw from the generator it is given")


def _check_json(spec: Mapping[str, Any]) -> None:
    try:
        restored = json.loads(json.dumps(spec))
    except TypeError:
        return  # holds an object, which users may do at their own risk
    _expect(restored == dict(spec), "its parameters change when written to JSON and read again")


def _check_pre_aggregator(pre: aggregation.pre.PreAggregator) -> None:
    """Check what a pre-aggregator makes of tensors."""
    rows = _normal(ENVS, WORKERS, DIMENSION)
    with _untouched("its input", rows), _no_global_randomness():
        result = pre(rows)
    count = pre.num_rows(WORKERS)
    _expect(
        result.shape == (ENVS, count, DIMENSION),
        f"the result must have shape [..., {count}, d] for n = {WORKERS}, got {list(result.shape)}",
    )
    _expect(result.dtype == rows.dtype, "the result must have the type of the submissions")
    _expect_finite(result, "the result of finite submissions must be finite")
    _expect_same(pre(rows), result, "two calls with one input differ")
    _expect_same(torch.stack([pre(row) for row in rows]), result, "a batch differs from a loop")
    _expect_same(copy.deepcopy(pre)(rows), result, "a copy differs")
    if pre.symmetric:
        order = torch.randperm(WORKERS, generator=torch.Generator().manual_seed(0))
        moved = result[:, order] if count == WORKERS else result
        _expect_same(pre(rows[:, order]), moved, "the result depends on the order of the workers")
    spoiled = rows.clone()
    spoiled[:, 4, 3] = torch.nan
    left = pre(spoiled).isfinite()
    _expect((left.all(2) | ~left.any(2)).all(), "a rejected submission spoils a part of a row")
    _expect(left.all(2).any(1).all(), "a rejected submission spoils everything")
    if pre.linear:
        matrix = pre.matrix(rows)
        _expect((matrix >= 0).all() and (matrix.sum(2) <= 1 + 1e-3).all(), "weights must sum to at most 1")
        _expect_same(matrix.to(rows) @ rows, result, "the result is not its matrix times the submissions")


def _check_tensor_rule(rule: Rule) -> None:
    """Check a rule of submissions alone."""
    rows = _normal(ENVS, WORKERS, DIMENSION)
    with _untouched("its input", rows), _no_global_randomness():
        if rule.linear:
            _check_credits(rule.credits(rows), ENVS, WORKERS)
        total = rule.function(rows) if isinstance(rule, CallableRule) else rule(rows)
    _expect(isinstance(total, Tensor), f"the aggregate must be a tensor, got {type(total).__name__}")
    _expect(
        total.shape == rows.shape[::2], f"the aggregate must have shape [..., d], got {list(total.shape)}"
    )
    _expect(total.dtype == rows.dtype, "the aggregate must have the type of the submissions")
    _expect_finite(total, "the aggregate of finite submissions must be finite")
    _expect_same(rule(rows), total, "two calls with one input differ")
    _expect_same(torch.stack([rule(row) for row in rows]), total, "a batch differs from a loop")
    order = torch.arange(WORKERS)
    if rule.symmetric:
        order = torch.randperm(WORKERS, generator=torch.Generator().manual_seed(0))
    # In views, since in a call the draws of a random rule follow from the submissions.
    moved, update = (rule.decide(_view(given)).update for given in (rows[:, order], rows))
    _expect_same(moved, update, "the aggregate depends on the order of the workers")
    _expect_same(copy.deepcopy(rule)(rows), total, "a copy of the rule differs")
    spoiled, other = rows.clone(), rows.clone()
    spoiled[:, 4, 3], other[:, 4] = torch.nan, torch.inf
    _expect_finite(rule(spoiled), "a rejected submission spoils the aggregate")
    _expect_same(rule(spoiled), rule(other), "the aggregate depends on what a rejected submission holds")
    for given in (rows, spoiled):
        view = _view(given)
        decision = rule.decide(view)
        _check_decision(decision, view, rule.linear)
        if not rule.random:
            _expect_same(decision.update, rule(given), "decide(view) differs from a call")
    if rule.linear:
        credits = rule.credits(rows)
        combined = aggregation.combine(credits, rows)
        order = torch.arange(WORKERS) if rule.random else order
        permuted = rule.credits(rows[:, order])
        _expect_same(combined, total, "the aggregate is not the weighted sum of its credits")
        _expect_same(permuted, credits[:, order], "the credits depend on the order of the workers")
        _expect(not rule.credits(spoiled)[:, 4].any(), "a rejected submission gets credit")
    elif rule.decide(_view(rows)).credits is None:
        with _refused(NotLinearError, "a rule without credits must raise NotLinearError"):
            rule.credits(rows)


def _check_server_rule(rule: ServerRule) -> None:
    """Check a rule with a memory or with the server's data, over some rounds."""
    rounds = [_normal(ENVS, WORKERS, DIMENSION, seed=seed) for seed in range(ROUNDS)]
    with _refused(TypeError, "a tensor alone must be refused with a TypeError"):
        rule(rounds[0])
    if "memory" in rule.needs:
        with _refused(ValueError, "a view without memory must be refused"):
            rule.decide(_view(rounds[0]))
    fresh, memory, memories, updates = copy.deepcopy(rule), Memory(ENVS), [], []
    for number, rows in enumerate(rounds):
        memories.append(memory.state())
        updates.append(_decide_once(rule, _view(rows, memory, number)).update)
        _expect_finite(updates[-1], f"the update must be finite in round {number}")
    memory.load(memories[3])
    for number in range(3, ROUNDS):
        update = fresh.decide(_view(rounds[number], memory, number)).update
        _expect_same(update, updates[number], "it keeps something outside view.memory")
    for env in range(ENVS):
        alone = Memory(1)
        for number, rows in enumerate(rounds):
            update = rule.decide(_view(rows[[env]], alone, number)).update
            _expect_same(update, updates[number][[env]], "a batch differs from a loop")
    spoiled = rounds[0].clone()
    spoiled[:, 4, 3] = torch.nan
    decision = _decide_once(rule, _view(spoiled, Memory(ENVS)))
    _expect_finite(decision.update, "a rejected submission spoils the update")


def _check_attack_call(attack: attacks.Attack) -> None:
    """Check what an attack answers outside a simulation."""
    rows = _normal(ENVS, WORKERS, DIMENSION)
    byzantine = torch.arange(WORKERS) < torch.tensor([[0], [4], [9]])
    with _untouched("its input", rows, byzantine), _no_global_randomness():
        sent = attack(rows, byzantine, attacks.AttackContext.standalone(rows))
    _expect(sent.shape == rows.shape, "submissions must have shape [E, n, d]")
    if attack.scope == "workers":
        _expect_same(sent[~byzantine], rows[~byzantine], "honest submissions change")
    if not attack.reads_own:
        unseen = rows.masked_fill(byzantine[..., None], torch.nan)
        blind = attack(unseen, byzantine, attacks.AttackContext.standalone(rows))
        _expect_same(blind[byzantine], sent[byzantine], "reads_own is False, but Byzantine rows are read")


def _check_repeats(
    simulation: Simulation, arguments: Mapping[str, Any], play: Callable[..., list[Tensor]]
) -> None:
    """Check that episodes and snapshots repeat, and that a batch equals a loop, in what ``play`` sees."""
    simulation.reset(SEEDS)
    with _no_global_randomness():
        episode = play(simulation)
    simulation.reset(SEEDS)
    again = play(simulation, 2)
    snapshot = simulation.snapshot()
    again += play(simulation, ROUNDS - 2)
    _expect_same(again, episode, "an episode with the same seed differs: it keeps something")
    simulation.restore(snapshot)
    rest = play(simulation, ROUNDS - 2)
    _expect_same(rest, episode[2:], "a restored snapshot goes on otherwise: keep state in context.memory")
    single = Simulation.make(1, seed=0, **TINY, **arguments)
    for env in SEEDS:
        single.reset([env])
        _expect_same(play(single), [rows[[env]] for rows in episode], "a batch differs from a loop")


def _check_credits(credits: Tensor, *shape: int) -> None:
    _expect(credits.shape == shape, f"credits must have shape {list(shape)}, got {list(credits.shape)}")
    _expect_finite(credits, "credits must lie on the simplex")
    _expect((credits >= 0).all() and (credits.sum(-1) <= 1 + 1e-3).all(), "credits must lie on the simplex")


def _check_decision(decision: Any, view: ServerView, linear: bool) -> None:
    _expect(isinstance(decision, Decision), f"decide must return a Decision, got {type(decision).__name__}")
    _expect(decision.update.shape == view.theta.shape, "the update must have shape [E, d]")
    _expect(decision.credits is not None or not linear, "linear must say whether decisions have credits")
    if decision.credits is not None:
        known = ~decision.credits.isnan().all(1)
        _expect(known.all() or not linear, "linear must say whether decisions have credits")
        _check_credits(decision.credits[known], int(known.sum()), view.num_workers)
        given = decision.credits.masked_fill(~known[:, None], 0)
        _expect(not given[view.rejected].any(), "a rejected submission gets credit")


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _view(rows: Tensor, memory: Memory | None = None, round: int = 0) -> ServerView:
    num_envs, _, dimension = rows.shape
    return ServerView(
        gradients=rows.clone(),
        theta=torch.zeros(num_envs, dimension),
        learning_rate=torch.full((num_envs,), 0.1),
        qv_loss=lambda theta: (theta - 1).square().mean(1),
        round=torch.full((num_envs,), round),
        memory=memory,
    )


def _data(task: tasks.Task) -> list[Tensor]:
    return [*task.train, *task.test, *(task.held_out or ())]


def _play(simulation: Simulation, rounds: int = ROUNDS) -> list[Tensor]:
    """The submissions of some rounds under the mean."""
    seen = []
    for _ in range(rounds):
        seen.append(simulation.gradients.clone())
        simulation.apply(simulation.gradients.mean(1))
    return seen


def _play_roles(simulation: Simulation, rounds: int = ROUNDS) -> list[Tensor]:
    """Who is Byzantine in some rounds under the mean."""
    seen = []
    for _ in range(rounds):
        seen.append(simulation.byzantine.float())
        simulation.apply(simulation.gradients.mean(1))
    return seen


def _begin(agent: agents.Agent, simulation: Simulation, rounds: int) -> list[Tensor]:
    """`_decide` from the start of an episode."""
    simulation.reset(SEEDS)
    agent.reset()
    return _decide(agent, simulation, rounds)


def _decide(agent: agents.Agent, simulation: Simulation, rounds: int) -> list[Tensor]:
    """The updates of some rounds, each checked."""
    updates = []
    for _ in range(rounds):
        decision = _decide_once(agent, simulation.view)
        updates.append(decision.update.clone())
        simulation.apply(decision)
    return updates


def _decide_once(policy: aggregation.Policy, view: ServerView) -> Decision:
    tensors = view.gradients, view.theta, view.previous_update, view.previous_credits, view.rejected
    with _untouched("the view", *tensors), _no_global_randomness():
        decision = policy.decide(view)
    _check_decision(decision, view, policy.linear)
    return decision


def _rollout(env: gym.Env[Any, Any], actions: Sequence[Any]) -> list[Any]:
    """What `reset` and some steps return."""
    seen: list[Any] = [env.reset(seed=3)]
    for action in actions:
        seen.append(env.step(action))
        _expect(np.isfinite(seen[-1][1]), "a reward is not finite")
        if seen[-1][2] or seen[-1][3]:
            break
    kept = copy.deepcopy(seen)
    env.reset(seed=4)
    _expect(_equal(kept, seen), "observations or info are overwritten later")
    return kept


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))
    return bool(one == other)
