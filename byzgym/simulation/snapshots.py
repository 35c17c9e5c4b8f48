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
    try:
        found = _forms(snapshot["state"], snapshot["generators"])
    except (AttributeError, KeyError, TypeError) as error:
        kind = f"{type(snapshot).__name__} that is none"
        raise ValueError(f"snapshot must be what snapshot() has returned, got a {kind}") from error
    expected = _forms(_tensors(owners), [generator.get_state() for generator in generators])
    if expected != found:
        name = min(key for key, _ in expected.items() ^ found.items())
        raise ValueError(
            f"snapshot must be of a simulation like this one, in which {name} is "
            f"{expected.get(name)}, got {found.get(name)}"
        )
    for generator, saved in zip(generators, snapshot["generators"], strict=True):
        try:
            torch.Generator(generator.device).set_state(saved)
        except RuntimeError as error:
            raise ValueError(f"snapshot must hold states of generators: {error}") from error


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


def _forms(state: Mapping[str, Mapping[str, Tensor]], generators: Sequence[Tensor]) -> dict[str, str]:
    """Type and shape of everything, by name."""
    forms = {f"generator {i}": _form(saved, saved.shape) for i, saved in enumerate(generators)}
    for owner, values in state.items():
        forms |= {f"{owner}.{key}": _form(value, value.shape) for key, value in values.items()}
    # As wide as the longest share of any episode so far.
    shares = state["batches"]["shares"]
    return forms | {"batches.shares": _form(shares, shares.shape[:2])}


def _form(tensor: Tensor, shape: torch.Size) -> str:
    return f"{tensor.dtype} of shape {tuple(shape)} on {tensor.device}"
