"""What torch, NumPy and Python keep per process: random generators, modes, threads and freed memory."""

# ruff: noqa: NPY002  # NumPy's global generator is meant

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from threading import RLock
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

Given = ParamSpec("Given")
Result = TypeVar("Result")

global_state = RLock()
"""Held while byzgym changes or compares state of the process, so that environments can run in threads."""


def episode_seed(generator: np.random.Generator) -> int:
    """The seed of a simulation's own generator for the next episode, from Gymnasium's ``np_random``."""
    return int(generator.integers(2**63))


def view_seed(seed: int) -> int:
    """What a `ServerView` may know of an episode's seed: a number that does not tell it."""
    return int(np.random.SeedSequence(seed, spawn_key=(1,)).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[Callable[[], bool]]:
    """Lend the global random generators a seed drawn from ``generator``, and put them back at the end.

    Modules draw from nothing else: from torch's generator, if not from NumPy's or Python's. Environments in
    other threads wait; other code that draws in another thread meanwhile is disturbed.

    Yields:
        A function that says whether any of the three has been drawn from (torch's on the CPU).

    Example:
        >>> with seeded(torch.Generator().manual_seed(0)) as drawn:
        ...     layer = torch.nn.Linear(2, 1)
        ...     drawn()
        True
    """
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    on_cuda = generator.device.type == "cuda"
    with global_state, torch.random.fork_rng(devices=[generator.device] if on_cuda else []):
        of_numpy, of_python = np.random.get_state(), random.getstate()
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reset other accelerators
        if on_cuda:
            torch.cuda.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield lambda: _drawn_since(seed)
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)


def _drawn_since(seed: int) -> bool:
    now: Any = np.random.get_state()
    then: Any = np.random.RandomState(seed % 2**32).get_state()
    return (
        not torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(seed).get_state())
        or random.getstate() != random.Random(seed).getstate()
        or now[2:] != then[2:]
        or not np.array_equal(now[1], then[1])
    )


def without_autocast(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Keep `torch.autocast`, in which a user's training job may call us, out of a function.

    It would round products to half precision, which distances between submissions do not survive.
    """

    @wraps(function)
    def exact(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        if not (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")):
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return exact


def shielded(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Keep the caller's autocast, inference mode, no_grad and default device out of a function.

    For entry points that keep tensors, which must outlive a caller's inference mode.

    Example:
        >>> with torch.inference_mode():
        ...     shielded(torch.zeros)(2).is_inference()
        False
    """
    exact = without_autocast(function)

    @wraps(function)
    def shield(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        if not _cpu_is_default():
            with torch.inference_mode(False), torch.device("cpu"):
                return exact(*args, **kwargs)
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            return exact(*args, **kwargs)
        with torch.inference_mode(False):  # a device would make every call of torch slower
            return exact(*args, **kwargs)

    return shield


def _cpu_is_default() -> bool:
    # Default devices are modes on a stack whose length is read 50 times as fast as the device.
    return torch._C._len_torch_function_stack() == 0 or torch.get_default_device().type == "cpu"


@cache
def keep_freed_memory() -> None:
    """Let the process keep memory that it frees, for its next use.

    At first glibc returns large blocks to the system, which hands them out anew page by page; that can take
    ten times as long as filling them. Once a block of almost 32 MiB (DEFAULT_MMAP_THRESHOLD_MAX) has been
    freed, glibc keeps smaller ones; see M_MMAP_THRESHOLD in mallopt(3). The block is never written to and
    costs no memory.
    """
    torch.empty((32 << 20) - (1 << 12), dtype=torch.uint8)


def _begin_in_child() -> None:
    global_state.release()
    torch.set_num_threads(1)  # torch's thread pool does not survive a fork: its next use would hang


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=global_state.acquire, after_in_parent=global_state.release, after_in_child=_begin_in_child
    )
