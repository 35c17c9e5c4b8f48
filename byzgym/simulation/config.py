"""The arguments of a training run, each named once: everything that takes them derives from here."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from byzgym import attacks, specs, tasks
from byzgym.attacks import AttackContext
from byzgym.registry import Registry, describe
from byzgym.simulation.schedules import LearningRate
from byzgym.validation import check_bool, check_choice, check_int, check_real, unknown

KNOWLEDGE = frozenset({"qv", "qv_distribution", "qv_labels", "rule"})
"""What of the server an attack or a role function may ask for."""
SCOPES = ("workers", "transmission")
REWARDS = ("qv", "held_out")
REWARD_SIZE = 128
"""Samples of reward="held_out", if there are so many."""
DEFAULT_ATTACKS = ("gaussian", "sign_flip", "ipm", "alie", "random")

Attack = Callable[[Tensor, Tensor, AttackContext], Tensor]
Spec = str | Mapping[str, Any] | Any
"""A name, "name:key=value,...", a mapping with a "name", or an object of the kind itself."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The training run that is attacked, whoever attacks it."""

    task: Spec = "digits"
    """Data: a task such as digits, mnist:root=data or csv:path=mine.csv,label=column."""
    model: str | None = None
    """Model: softmax, mlp:128,128, lenet, resnet18 ... or a registered one; None is the task's own."""
    num_workers: int = 10
    """Number n of workers, at least 1."""
    cohort_size: int | None = None
    """Workers that take part in a round, drawn anew in each; None is all."""
    roles: Spec = "static"
    """Who attacks when: a role function such as static or randomized:period=50,probability=0.5."""
    partition: Spec = "iid"
    """How the workers share the training data: iid, dirichlet:alpha=0.1, by_column:region ..."""
    batch_size: int | None = None
    """Samples of a worker's batch; None is the task's own."""
    local_steps: int = 1
    """Steps of a worker in a round (FedAvg); it submits the change of its model over the step size."""
    learning_rate: float | Mapping[str, Any] | None = None
    """Step size, or a schedule such as {"initial": 0.1, "schedule": "cosine"}; None is the task's own."""
    momentum: float = 0.0
    """Heavy-ball momentum of the server, from 0 to below 1."""
    worker_momentum: float = 0.0
    """beta of m <- beta m + (1 - beta) g at every worker, from 0 to below 1."""
    weight_decay: float = 0.0
    """Every worker adds this multiple of the parameters to its gradient, as torch.optim.SGD; at least 0."""
    qv_size: int = 10
    """Samples in the server's quasi-validation (QV) set."""
    qv_source: Spec = "held_out"
    """Where the QV samples come from: held_out, train, noise:std=0.5 ..."""
    qv_period: int | None = None
    """Rounds after which the server draws new QV samples, once it has the submissions; None is never."""
    secure_group_size: int = 1
    """g: the server sees only means over groups of g workers; must divide the number that take part."""
    num_servers: int = 1
    """S: the parameters are divided evenly among so many servers, each of which aggregates its block."""
    rounds: int = 100
    """Rounds of an episode, at least 1."""
    one_by_one: bool | None = None
    """Whether workers' gradients are computed one after the other; None is where that is faster."""
    device: str = "cpu"
    """A torch device."""


@dataclass(frozen=True, kw_only=True)
class SimulationConfig(RunConfig):
    """A training run and who attacks it."""

    attack: Spec | Sequence[Spec] = DEFAULT_ATTACKS
    """An attack such as alie or ipm:epsilon=1.0, or a list of them, one of which is drawn at each reset."""
    num_byzantine: int | Sequence[int] | None = None
    """Number f < n of Byzantine workers, or (low, high), drawn at each reset; None is 7 of 10 workers."""
    reward: str | None = None
    """Samples on which the reward is computed: qv, or held_out for others that only the reward sees; None is
    held_out if a reward size is given, else qv."""
    reward_size: int | None = None
    """Number of held-out samples for the reward; None is up to 128. Not with the reward qv."""


@dataclass(frozen=True, eq=False)
class Setup:
    """What `resolve` makes of a configuration: checked values, and the objects that it names."""

    task: tasks.Task
    make_module: Callable[..., nn.Module]
    model: str
    num_workers: int
    cohort_size: int
    num_byzantine: tuple[int, int]
    attacks: tuple[NamedAttack, ...]
    roles: Callable[[Tensor, Tensor, AttackContext], Tensor]
    roles_name: str
    partition: Callable[[Tensor, int, torch.Generator], tuple[Tensor, Tensor]]
    partition_name: str
    batch_size: int
    local_steps: int
    learning_rate: LearningRate
    momentum: float
    worker_momentum: float
    weight_decay: float
    qv_size: int
    draw_qv: Callable[[tasks.Task, int, torch.Generator], tuple[Tensor, Tensor]]
    qv_source_name: str
    qv_period: int | None
    reward_size: int | None
    secure_group_size: int
    num_servers: int
    rounds: int
    one_by_one: bool | None
    device: torch.device

    @property
    def num_rows(self) -> int:
        """Submissions that the server receives in a round: of workers, or of secure groups of them."""
        return self.cohort_size // self.secure_group_size


@dataclass(frozen=True, eq=False)
class NamedAttack:
    """An attack, and how errors and `info` call it."""

    attack: Attack
    name: str
    key: Any
    """Equal for specs that say the same."""

    @property
    def is_fault(self) -> bool:
        """Whether it is a fault in transmission, under which no worker is Byzantine."""
        return is_fault(self.attack)


def is_fault(attack: Any) -> bool:
    """Whether an attack is a fault in transmission: it corrupts what any worker sends, and no worker is bad.

    Data poisoning is none, whatever its scope: it acts on Byzantine workers' data.
    """
    scope = getattr(attack, "scope", "workers")
    return scope == "transmission" and not isinstance(attack, attacks.DataPoisoning)


def resolve(config: SimulationConfig) -> Setup:
    """Check a configuration and make what it names.

    Raises:
        ValueError: If a value is not allowed; the message names argument, value and what is allowed.
        TypeError: If a parameter of a named thing does not exist.
    """
    n = check_int("num_workers", config.num_workers, low=1)
    if config.model is not None and not isinstance(config.model, str):
        raise ValueError(f"model must be a string such as 'mlp:32' or None, got {config.model!r}")
    if torch.get_default_dtype() != torch.float32:
        raise ValueError(f"torch's default dtype must be torch.float32, got {torch.get_default_dtype()}")
    task = _made("task", tasks.registry.registry, config.task)
    model = task.model if config.model is None else config.model
    _check_inputs(model, task)
    cohort = n
    if config.cohort_size is not None:
        cohort = check_int("cohort_size (unless None)", config.cohort_size, low=1, high=n)
    group = check_int("secure_group_size", config.secure_group_size, low=1, high=cohort)
    if cohort % group:
        given = f"num_workers={n}" if cohort == n else f"cohort_size={cohort}"
        raise ValueError(f"secure_group_size must divide {given}, got {group}")
    rounds = check_int("rounds", config.rounds, low=1)
    device = _device(config.device)
    rate = task.learning_rate if config.learning_rate is None else config.learning_rate
    qv_size = check_int("qv_size", config.qv_size, low=1)
    qv_source = _made("qv_source", tasks.quasi_validation.registry, config.qv_source)
    return Setup(
        task=task.to(device),
        make_module=partial(tasks.models.build, model, task.input_shape, task.num_classes),
        model=model,
        num_workers=n,
        cohort_size=cohort,
        num_byzantine=byzantine_bounds(config.num_byzantine, n),
        attacks=named_attacks(config.attack),
        roles=_actor("roles", attacks.roles.registry, config.roles),
        roles_name=describe(config.roles),
        partition=_partition(config.partition, task.to(device)),
        partition_name=describe(config.partition),
        batch_size=_batch_size(config.batch_size, task, n),
        local_steps=check_int("local_steps", config.local_steps, low=1),
        learning_rate=LearningRate(rate, rounds),
        momentum=_below_one("momentum", config.momentum),
        worker_momentum=_below_one("worker_momentum", config.worker_momentum),
        weight_decay=check_real("weight_decay", config.weight_decay, low=0),
        qv_size=qv_size,
        draw_qv=qv_source,
        qv_source_name=describe(config.qv_source),
        qv_period=None if config.qv_period is None else check_int("qv_period", config.qv_period, low=1),
        reward_size=_reward_size(config, task, qv_size if getattr(qv_source, "uses_held_out", True) else 0),
        secure_group_size=group,
        num_servers=check_int("num_servers", config.num_servers, low=1),
        rounds=rounds,
        one_by_one=None if config.one_by_one is None else check_bool("one_by_one", config.one_by_one),
        device=device,
    )


def config_from(cls: type[Any], arguments: Mapping[str, Any]) -> Any:
    """A configuration from keyword arguments; a TypeError names one that does not exist."""
    known = [field.name for field in fields(cls)]
    for name in arguments:
        if name not in known:
            raise TypeError(str(unknown("argument", name, known)))
    return cls(**arguments)


def named_attacks(attack: Spec | Sequence[Spec]) -> tuple[NamedAttack, ...]:
    """The attacks of a spec or a list of specs."""
    given = attack if isinstance(attack, list | tuple) else [attack]
    if not given:
        raise ValueError(f"attack must name at least one attack, got {attack!r}")
    made = []
    for spec in given:
        one = _actor("attack", attacks.registry.registry, spec)
        name = describe(spec)
        scope = getattr(one, "scope", "workers")
        if scope not in SCOPES:
            raise ValueError(f"attack: the scope of {name} must be one of {SCOPES}, got {scope!r}")
        made.append(NamedAttack(one, name, _key(spec, one)))
    return tuple(made)


def byzantine_bounds(num_byzantine: Any, num_workers: int) -> tuple[int, int]:
    """The bounds between which f is drawn at each reset."""
    if num_byzantine is None:
        num_byzantine = 7 * num_workers // 10
    if isinstance(num_byzantine, list | tuple):
        if len(num_byzantine) != 2:
            raise ValueError(f"num_byzantine must be an integer or (low, high), got {num_byzantine!r}")
        low = check_int("num_byzantine[0]", num_byzantine[0], low=0, high=num_workers - 1)
        return low, check_int("num_byzantine[1]", num_byzantine[1], low=low, high=num_workers - 1)
    number = check_int("num_byzantine", num_byzantine, low=0, high=num_workers - 1)
    return number, number


def _key(spec: Spec, made: Attack) -> Any:
    """What tells an attack from others: its parameters and the factory, which may be registered again."""
    try:
        spec = specs.parse(spec) if isinstance(spec, str) else spec
        return json.dumps(spec, sort_keys=True), attacks.registry.registry.factory(spec["name"])
    except TypeError:  # an object, or made from one: equals only itself
        return id(made)


def _made(argument: str, registry: Registry[Any], spec: Spec) -> Any:
    """What a registry makes of a spec, with the argument's name in its errors."""
    try:
        return registry.make_from(spec)
    except (TypeError, ValueError) as error:
        if argument in str(error):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{argument}: {error}") from error


def _partition(spec: Spec, task: tasks.Task) -> tasks.partitions.Partition:
    """A partition, given the column of the task that it asks for in place of the labels."""
    partition = _made("partition", tasks.partitions.registry, spec)
    column = getattr(partition, "column", None)
    if column is None:
        return partition
    try:
        values = task.column(column)
    except ValueError as error:
        raise ValueError(f"partition: {describe(spec)}: {error}") from None
    return lambda _, num_workers, generator: partition(values.clone(), num_workers, generator)


def _actor(argument: str, registry: Registry[Any], spec: Spec) -> Any:
    """An attack or a role function, whose declared knowledge is checked."""
    made = _made(argument, registry, spec)
    knowledge: Any = getattr(made, "knowledge", frozenset())
    if not isinstance(knowledge, set | frozenset) or not knowledge <= KNOWLEDGE:
        raise ValueError(
            f"{argument}: the knowledge of {describe(spec)} must be a set of names from "
            f"{sorted(KNOWLEDGE)}, got {knowledge!r}"
        )
    return made


def _check_inputs(model: str, task: tasks.Task) -> None:
    """Raise a ValueError where a model reads numbers of n-grams and the task gives others, or the reverse."""
    name, x = model.partition(":")[0], task.train[0]
    if name == "embedding_bag" and bool(((x < 0) | (x != x.floor())).any()):
        raise ValueError(f"model {model!r} takes numbers of n-grams, whole ones; this task has other inputs")
    if name in ("softmax", "mlp") and task.model.partition(":")[0] == "embedding_bag":
        raise ValueError(f"model {model!r} cannot read the numbers of n-grams that this task has as inputs")


def _batch_size(batch_size: int | None, task: tasks.Task, num_workers: int) -> int:
    if batch_size is None:
        return task.batch_size
    share = len(task.train[1]) // num_workers
    if check_int("batch_size", batch_size, low=1) > share:
        warnings.warn(
            f"batch_size={batch_size} is more than the {share} samples that a worker has on average; "
            "batches are drawn with replacement, so they repeat samples",
            stacklevel=2,
        )
    return batch_size


def _reward_size(config: SimulationConfig, task: tasks.Task, taken: int) -> int | None:
    """Samples of the reward set, from a held-out set of which ``taken`` are for the QV set; None for none."""
    if config.reward is not None:
        check_choice("reward", config.reward, REWARDS)
    if config.reward_size is None and config.reward in (None, "qv"):
        return None
    if config.reward == "qv":
        raise ValueError(
            f"reward_size is for reward='held_out', got reward='qv' and reward_size={config.reward_size!r}"
        )
    assert task.held_out is not None  # a task without one splits it off its training set
    held_out = len(task.held_out[1])
    left = held_out - taken
    if left < 1:
        raise ValueError(
            f"reward must be 'qv' and reward_size None where all {held_out} held-out samples are for the QV "
            f"set, got reward={config.reward!r}, reward_size={config.reward_size!r} and qv_size={taken}"
        )
    if config.reward_size is None:
        return min(left, REWARD_SIZE)
    return check_int("reward_size", config.reward_size, 1, left)


def _below_one(name: str, value: float) -> float:
    value = check_real(name, value, low=0)
    if value >= 1:
        raise ValueError(f"{name} must be at least 0 and less than 1, got {value!r}")
    return value


def _device(device: str) -> torch.device:
    try:
        where = torch.device(device)
        torch.Generator(where)
        torch.empty(0, device=where)
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device must be a torch device usable here, got {device!r}: {reason}") from None
    return where
