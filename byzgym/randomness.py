"""Seeds of episodes, and randomness of modules, which torch takes from its global generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import numpy as np
import torch

_global_generator = RLock()


def episode_seed(generator: np.random.Generator) -> int:
    """The seed of a simulation's own generator for the next episode, from Gymnasium's ``np_random``."""
    return int(generator.integers(2**63))


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Lend torch's global generator a seed drawn from ``generator``, and leave it as it was found.

    Modules draw from nothing else. Environments in other threads wait; other code that draws from the global
    generator in another thread meanwhile is disturbed.
    """
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    on_cuda = generator.device.type == "cuda"
    with _global_generator, torch.random.fork_rng(devices=[generator.device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reset other accelerators
        if on_cuda:
            torch.cuda.manual_seed(seed)
        yield
