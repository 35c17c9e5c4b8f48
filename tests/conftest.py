import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from byzgym import agents, aggregation, attacks, tasks

# pytest-xdist runs one process per core; threads inside them would only get into each other's way.
torch.set_num_threads(1)

REGISTRIES = [
    agents.registry.registry,
    aggregation.pre.registry.registry,
    aggregation.registry.registry,
    attacks.registry.registry,
    attacks.roles.registry,
    tasks.registry.registry,
    tasks.models.registry,
    tasks.partitions.registry,
    tasks.quasi_validation.registry,
]


def _registries():
    before = [dict(registry._factories) for registry in REGISTRIES]
    yield
    for registry, factories in zip(REGISTRIES, before, strict=True):
        registry._factories = factories


@pytest.fixture(autouse=True, scope="module")
def _registries_as_before_the_module():
    """The same for fixtures that live as long as a module."""
    yield from _registries()


@pytest.fixture(autouse=True)
def _registries_as_before():
    """What a test registers is gone after it, so that the order of tests does not matter."""
    yield from _registries()


@pytest.fixture(autouse=True)
def _no_global_randomness(request):
    """Nothing in byzgym may draw from the global generator of torch or NumPy, or seed it.

    Left out are tests marked ``global_rng``: stable-baselines3 does both, and so does building a module in
    the ordinary way.
    """

    def states():
        numpy_state = np.random.get_state()[1]  # noqa: NPY002  it is the global one that counts
        return torch.get_rng_state().tolist(), numpy_state.tolist()

    before = states()
    yield
    if "global_rng" not in request.keywords:
        assert states() == before, "the test moved a global generator"


@pytest.fixture
def rules_seen():
    """The rules that the attack "curious", which knows the server's rule, has been shown."""
    seen = []

    class Curious:
        knowledge = frozenset({"rule"})

        def __call__(self, gradients, byzantine, context):
            seen.append(context.rule)
            return gradients

    attacks.register("curious", Curious)
    return seen


@pytest.fixture
def compiler():
    """Skips the test where `torch.compile` lacks a C++ compiler or Python's headers."""
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    if not headers or not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        pytest.skip("no C++ compiler, or no Python headers")
