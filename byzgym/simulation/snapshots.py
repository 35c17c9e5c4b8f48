"""Copies of everything that changes in a simulation, and the way back to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from byzgym.memory import Memory


def take(
    owners: Mapping[str, Any],
    generators: Sequence[torch.Generator],
    memories: Sequence[Memory],
    attacks: Sequence[str],
) -> dict[str, Any]:
    """Copy the tensors that the owners hold as attributes, generators, memories and names of attacks."""
    return {
        "state": {
            name: {key: value.clone() for key, value in tensors.items()} for name, tensors in _tensors(owners)
        },
        "generators": [generator.get_state() for generator in generators],
        "memories": [memory.state() for memory in memories],
        "attacks": list(attacks),
    }


def put_back(
    snapshot: Mapping[str, Any],
    owners: Mapping[str, Any],
    generators: Sequence[torch.Generator],
    memories: Sequence[Memory],
    attacks: Sequence[str],
) -> None:
    """Give owners, generators and memories what `take` has copied from them, or from others like them.

    Raises:
        ValueError: If the snapshot is invalid or of a simulation of another form; nothing changes then.
    """
    try:
        saved_memories = list(snapshot["memories"])
        # Attacks that a later reset has added kept nothing yet.
        saved_memories += [{}] * (len(memories) - len(saved_memories))
        saved_attacks = [*snapshot["attacks"], *attacks[len(snapshot["attacks"]) :]]
        found = _form(snapshot["state"].items(), snapshot["generators"], saved_attacks)
    except (AttributeError, KeyError, TypeError):
        raise ValueError("snapshot must be what snapshot() returned, got an invalid snapshot") from None
    expected = _form(_tensors(owners), [generator.get_state() for generator in generators], attacks)
    if found != expected:
        name = min(key for key, _ in expected.items() ^ found.items())
        raise ValueError(
            f"snapshot must be of a simulation like this one, in which {name} is {expected.get(name)}, "
            f"got {found.get(name)}"
        )
    for name, owner in owners.items():
        vars(owner).update({key: value.clone() for key, value in snapshot["state"][name].items()})
    for generator, saved in zip(generators, snapshot["generators"], strict=True):
        generator.set_state(saved)
    for memory, saved in zip(memories, saved_memories, strict=True):
        memory.load(saved)


def _tensors(owners: Mapping[str, Any]) -> list[tuple[str, dict[str, Tensor]]]:
    return [
        (name, {key: value for key, value in vars(owner).items() if isinstance(value, Tensor)})
        for name, owner in owners.items()
    ]


def _form(tensors: Any, generators: Sequence[Tensor], attacks: Sequence[str]) -> dict[str, str]:
    """Type and shape of everything, by name; how many generators there are, and which attacks."""
    forms = {"generators": str([len(saved) for saved in generators]), "attacks": ", ".join(attacks)}
    for owner, values in tensors:
        for key, value in values.items():
            # Shares are as wide as the longest one of any episode so far.
            shape = value.shape[:2] if key == "shares" else value.shape
            forms[f"{owner}.{key}"] = f"{value.dtype} of shape {tuple(shape)} on {value.device}"
    return forms
