"""What tells one run from all others: its full configuration, and the code that plays it.

Two runs of the same key give the same numbers, up to the last bits, which depend on what is played beside
them. The key is a hash, so that a changed default, a model that was trained again or a repaired rule makes
another run and never mixes with the old one.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import byzgym
from byzgym import agents, aggregation, attacks, specs, tasks
from byzgym.experiments.config import Comparison, arguments
from byzgym.registry import Registry
from byzgym.simulation.config import RunConfig, SimulationConfig, resolve

REGISTRIES: dict[str, Registry[Any]] = {
    "agent": agents.registry.registry,
    "pre-aggregator": aggregation.pre.registry.registry,
    "rule": aggregation.registry.registry,
    "attack": attacks.registry.registry,
    "role": attacks.roles.registry,
    "task": tasks.registry.registry,
    "model": tasks.models.registry,
    "partition": tasks.partitions.registry,
    "qv source": tasks.quasi_validation.registry,
}
"""Where the names of a configuration come from."""

_SHOWS = "cli", "forensics", "experiments"
"""Parts of byzgym that show results and do not change them, but for these files:"""
_PLAYS = "config.py", "play.py", "statistics.py"


def setting(comparison: Comparison) -> dict[str, Any]:
    """What all runs of a comparison have in common, every default resolved.

    Raises:
        ValueError: If a value is not allowed.
        TypeError: If a parameter does not exist.
    """
    given = arguments(comparison, RunConfig)
    setup = resolve(SimulationConfig(**given))
    given |= {"model": setup.model, "batch_size": setup.batch_size, "cohort_size": setup.cohort_size}
    if given["learning_rate"] is None:
        given["learning_rate"] = setup.task.learning_rate
    names = [value for value in given.values() if isinstance(value, str)]
    return given | {"evaluate_every": comparison.interval, "code": code(), "files": digests(names)}


def run(setting: Mapping[str, Any], files: Mapping[str, str], **who: Any) -> dict[str, Any]:
    """The full configuration of a run.

    Args:
        setting: What it has in common with others.
        files: The `digests` of its policy and attack.
        who: Its policy, attack, num_byzantine and seed.
    """
    return {**setting, **who, "files": {**setting["files"], **files}}


def key(configuration: Any) -> str:
    """The hash of a configuration, 64 hexadecimal digits; the order of mappings does not matter.

    Example:
        >>> key({"seed": 1, "policy": "krum"}) == key({"policy": "krum", "seed": 1})
        True
    """
    return hashlib.sha256(text(configuration).encode()).hexdigest()


def text(configuration: Any) -> str:
    """A configuration as canonical JSON."""
    return json.dumps(configuration, sort_keys=True, separators=(",", ":"))


@cache
def code() -> str:
    """byzgym's version, and a hash of those of its files that can change a number."""
    folder, digest = Path(byzgym.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix not in (".py", ".safetensors") or (parts[0] in _SHOWS and path.name not in _PLAYS):
            continue
        digest.update("/".join(parts).encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{byzgym.__version__}+{digest.hexdigest()[:12]}"


def digests(names: Iterable[str]) -> dict[str, str]:
    """Hashes of the files that names mention, such as a model's, and of the user's code behind names."""
    found = {}
    for name in names:
        words = {word for word in re.split(r"[:=,+'\"\[\](){} ]+", name) if word}
        values = [value for value in specs.parse(name).values() if isinstance(value, str)]
        for word in words.union(values):
            if _is_file(word):
                found[word] = _hash(Path(word).read_bytes())
        for kind, registry in REGISTRIES.items():
            for word in words.intersection(registry.names()):
                if not registry.is_built_in(word):
                    found[f"{kind} {word}"] = _hash(_source(registry.factory(word)))
    return found


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # too long, or holds what no path holds
        return False


def _source(factory: Any) -> bytes:
    """The file in which the user's code stands, or as much of the code as can be had."""
    while isinstance(factory, partial):
        factory = factory.func
    try:
        path = inspect.getsourcefile(factory)
        if path and Path(path).is_file():
            return Path(path).read_bytes()
        return inspect.getsource(factory).encode()
    except (OSError, TypeError):  # typed into an interpreter, or compiled
        compiled = getattr(factory, "__code__", None)
        return compiled.co_code if compiled else type(factory).__name__.encode()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
