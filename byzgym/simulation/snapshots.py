"""Copies of everything that changes in a simulation, and the way back to them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def take(owners: Mapping[str, Any], generators: Sequence[torch.Generator]) -> dict[str, Any]:
    """Copy the tensors that the owners hold as attributes, and the states of the generators."""
    return {
        "state": copy.deepcopy(_tensors(owners)),
        "generators": [generator.get_state() for generator in generators],
    }


def check(
    snapshot: Mapping[str, Any], owners: Mapping[str, Any], generators: Sequence[torch.Generator]
) -> None:
    """Raise a ValueError unless `take` may have copied the snapshot from such owners and generators."""
    if not isinstance(snapshot, Mapping) or set(snapshot) != {"state", "generators"}:
        raise ValueError(f"snapshot must be what snapshot() has returned, got {type(snapshot).__name__}")
    expected, found = _shapes(take(owners, generators)), _shapes(snapshot)
    if expected != found:
        name = min(key for key, _ in expected.items() ^ found.items())
        raise ValueError(
            f"snapshot must be of a simulation like this one, in which {name} has shape "
            f"{expected.get(name)}, got {found.get(name)}"
        )


def put_back(
    snapshot: Mapping[str, Any], owners: Mapping[str, Any], generators: Sequence[torch.Generator]
) -> None:
    """Give owners and generators what a snapshot holds that `check` has accepted."""
    state = copy.deepcopy(snapshot["state"])
    for name, owner in owners.items():
        vars(owner).update(state[name])
    for generator, saved in zip(generators, snapshot["generators"], strict=True):
        generator.set_state(saved)


def _tensors(owners: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    return {
        name: {key: value for key, value in vars(owner).items() if isinstance(value, Tensor)}
        for name, owner in owners.items()
    }


def _shapes(snapshot: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    shapes = {f"generator {i}": tuple(state.shape) for i, state in enumerate(snapshot["generators"])}
    for owner, values in snapshot["state"].items():
        shapes |= {f"{owner}.{key}": tuple(value.shape) for key, value in values.items()}
    # As wide as the longest share of any episode so far.
    shapes["batches.shares"] = shapes["batches.shares"][:2]
    return shapes
