"""The arguments that define a simulation: validated, and turned into the objects they name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from byzgym import attacks, tasks
from byzgym.attacks import AttackContext
from byzgym.simulation.schedules import LearningRate
from byzgym.validation import check_int, check_real

KNOWLEDGE = frozenset({"qv", "rule"})
"""What of the server an attack or a role function may ask for."""
SCOPES = ("workers", "transmission")
DEFAULT_ATTACKS = ("gaussian", "sign_flip", "ipm", "alie", "random")

Attack = Callable[[Tensor, Tensor, AttackContext], Tensor]
Spec = str | Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Settings:
    """What `resolve` makes of the arguments."""

    task: tasks.Task
    make_module: Callable[..., nn.Module]
    num_workers: int
    num_byzantine: tuple[int, int]
    attacks: tuple[Attack, ...]
    attack_names: tuple[str, ...]
    roles: Callable[[Tensor, Tensor, AttackContext], Tensor]
    static_roles: bool
    partition: Callable[[Tensor, int, torch.Generator], tuple[Tensor, Tensor]]
    batch_size: int
    learning_rate: LearningRate
    momentum: float
    worker_momentum: float
    qv_size: int
    draw_qv: Callable[[tasks.Task, int, torch.Generator], tuple[Tensor, Tensor]]
    secure_group_size: int
    rounds: int
    device: torch.device


def resolve(
    *,
    task: Spec = "digits",
    model: str | None = None,
    num_workers: int = 10,
    num_byzantine: int | Sequence[int] = 7,
    attack: Spec | Sequence[Spec] = DEFAULT_ATTACKS,
    roles: Spec = "static",
    partition: Spec = "iid",
    batch_size: int | None = None,
    learning_rate: float | Mapping[str, Any] | None = None,
    momentum: float = 0.0,
    worker_momentum: float = 0.0,
    qv_size: int = 10,
    qv_source: Spec = "held_out",
    secure_group_size: int = 1,
    rounds: int = 100,
    device: str = "cpu",
) -> Settings:
    """Validate the arguments of a simulation.

    Args:
        task: Name of a task, or a mapping with its name and parameters.
        model: A model such as "mlp:32"; the task's own where None.
        num_workers: n, at least 1.
        num_byzantine: f from 0 to n - 1, or bounds (low, high) between which it is drawn at each reset.
        attack: A name, a mapping with the name and parameters, or a list of these drawn from at each reset.
        roles: Role function: which workers attack when.
        partition: How the training data are divided among the workers.
        batch_size: Samples per worker and round; the task's own where None.
        learning_rate: Step size or schedule (see `LearningRate`); the task's own where None.
        momentum: Heavy-ball momentum of the server, from 0 to below 1.
        worker_momentum: beta of m <- beta m + (1 - beta) g at every worker, from 0 to below 1.
        qv_size: Samples in the quasi-validation set.
        qv_source: Where they come from.
        secure_group_size: g; the server sees only means over groups of g workers. Must divide n.
        rounds: Length of an episode.
        device: A torch device.

    Raises:
        ValueError: If a value is not allowed; the message names argument, value and what is allowed.
        TypeError: If an argument or a parameter of a mapping does not exist.
    """
    num_workers = check_int("num_workers", num_workers, low=1)
    if isinstance(model, str) or model is None:
        the_task = tasks.make_from(task)
        if not isinstance(the_task, tasks.Task):
            raise TypeError(f"task: the factory of {task!r} must return a Task, got {the_task!r}")
    else:
        raise ValueError(f"model must be a string such as 'mlp:32' or None, got {model!r}")
    model = the_task.model if model is None else model
    if torch.get_default_dtype() != torch.float32:
        raise ValueError(f"torch's default dtype must be torch.float32, got {torch.get_default_dtype()}")
    made, names = _attacks(attack)
    group = check_int("secure_group_size", secure_group_size, low=1, high=num_workers)
    if num_workers % group:
        raise ValueError(f"secure_group_size must divide num_workers={num_workers}, got {group}")
    rounds = check_int("rounds", rounds, low=1)
    where = _device(device)
    return Settings(
        task=the_task.to(where),
        make_module=partial(tasks.models.build, model, the_task.input_shape, the_task.num_classes),
        num_workers=num_workers,
        num_byzantine=_bounds(num_byzantine, num_workers),
        attacks=made,
        attack_names=names,
        roles=_made("roles", attacks.roles, roles),
        static_roles=(roles if isinstance(roles, str) else roles.get("name")) == "static",
        partition=_made("partition", tasks.partitions, partition),
        batch_size=check_int("batch_size", the_task.batch_size if batch_size is None else batch_size, low=1),
        learning_rate=LearningRate(
            the_task.learning_rate if learning_rate is None else learning_rate, rounds
        ),
        momentum=_below_one("momentum", momentum),
        worker_momentum=_below_one("worker_momentum", worker_momentum),
        qv_size=check_int("qv_size", qv_size, low=1),
        draw_qv=_made("qv_source", tasks.quasi_validation, qv_source),
        secure_group_size=group,
        rounds=rounds,
        device=where,
    )


def merge(
    base: Settings, overrides: Sequence[Mapping[str, Any]]
) -> tuple[Settings, list[tuple[int, int]], list[list[int]]]:
    """One list of attacks for all environments, and per environment the bounds of f and its attacks.

    Environments whose overrides say the same share their attacks, which then act on all of them at once.
    """
    made, names = list(base.attacks), list(base.attack_names)
    bounds, choices = [], []
    known: dict[Any, list[int]] = {}
    for override in overrides:
        unknown = set(override) - {"attack", "num_byzantine"}
        if unknown:
            raise ValueError(f"per_environment may override attack and num_byzantine, got {sorted(unknown)}")
        given = override.get("num_byzantine", base.num_byzantine)
        bounds.append(_bounds(given, base.num_workers))
        if "attack" not in override:
            choices.append(list(range(len(base.attacks))))
            continue
        key = _content(override["attack"])
        if key not in known:
            special, special_names = _attacks(override["attack"])
            known[key] = list(range(len(made), len(made) + len(special)))
            made += special
            names += special_names
        choices.append(known[key])
    return dataclasses.replace(base, attacks=tuple(made), attack_names=tuple(names)), bounds, choices


def _content(value: Any) -> Any:
    """Something hashable, equal for specs that say the same; any other object equals only itself."""
    if isinstance(value, Mapping):
        return frozenset((key, _content(part)) for key, part in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(_content(part) for part in value)
    plain = value is None or isinstance(value, str | int | float)
    return type(value), value if plain else id(value)


def _attacks(attack: Any) -> tuple[tuple[Attack, ...], tuple[str, ...]]:
    """The attacks of a spec or a list of specs, and their names."""
    specs = [attack] if isinstance(attack, str | Mapping) else attack
    if not isinstance(specs, Sequence) or not specs:
        raise ValueError(f"attack must be a name, a mapping or a non-empty list of these, got {attack!r}")
    made = tuple(_made("attack", attacks, spec) for spec in specs)
    for spec, one in zip(specs, made, strict=True):
        scope = getattr(one, "scope", "workers")
        if scope not in SCOPES:
            raise ValueError(f"attack: the scope of {spec!r} must be one of {SCOPES}, got {scope!r}")
    return made, tuple(spec if isinstance(spec, str) else str(spec["name"]) for spec in specs)


def _made(argument: str, registry: Any, spec: Spec) -> Any:
    """What a registry makes of a spec, with the argument's name in its errors."""
    try:
        made = registry.make_from(spec)
    except (TypeError, ValueError) as error:
        if argument in str(error):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{argument}: {error}") from error
    if not callable(made):
        raise TypeError(f"{argument}: the factory of {spec!r} must return something to call, got {made!r}")
    knowledge: Any = getattr(made, "knowledge", frozenset())
    if not isinstance(knowledge, set | frozenset) or not knowledge <= KNOWLEDGE:
        raise ValueError(
            f"{argument}: the knowledge of {spec!r} must be a set of names from {sorted(KNOWLEDGE)}, "
            f"got {knowledge!r}"
        )
    return made


def _bounds(num_byzantine: int | Sequence[int], num_workers: int) -> tuple[int, int]:
    if isinstance(num_byzantine, list | tuple):
        if len(num_byzantine) != 2:
            raise ValueError(f"num_byzantine must be an integer or (low, high), got {num_byzantine!r}")
        low = check_int("num_byzantine[0]", num_byzantine[0], low=0, high=num_workers - 1)
        return low, check_int("num_byzantine[1]", num_byzantine[1], low=low, high=num_workers - 1)
    number = check_int("num_byzantine", num_byzantine, low=0, high=num_workers - 1)
    return number, number


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
