"""What `per_environment` says of one environment stays with it."""

import numpy as np
import pytest
import torch
from simulation_cases import make

from byzgym import attacks, tasks


@pytest.mark.parametrize("given", [3, "ab", {"attack": "none"}])
def test_per_environment_must_be_a_list(given):
    with pytest.raises(ValueError, match="per_environment must be a list of num_envs=2 mappings, got"):
        make(per_environment=given)


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_overrides_that_only_print_alike_stay_apart(kind):
    class Constant:
        def __init__(self, values):
            self.value = float(values[1000])

        def __call__(self, gradients, byzantine, context):
            return torch.full_like(gradients, self.value)

    attacks.register("test_constant", Constant)
    values = [kind([0.0] * 1000 + [middle] + [0.0] * 1000) for middle in (1.0, 5.0)]
    assert repr(values[0]) == repr(values[1])
    simulation = make(per_environment=[{"attack": {"name": "test_constant", "values": v}} for v in values])
    for env, value in enumerate((1.0, 5.0)):
        assert (simulation.gradients[env, simulation.byzantine[env]] == value).all()


def test_overrides_that_say_the_same_share_their_attack():
    class Counted(attacks.Zero):
        def __init__(self, values=(1,)):
            built.append(values)

    def task():
        calls.append(1)
        return tasks.make("synthetic")

    built, calls = [], []
    attacks.register("test_counted", Counted)
    tasks.register("test_task", task)
    specs = ["test_counted", *({"name": "test_counted", "values": [one]} for one in (1, 1.0))]
    overrides = [{"attack": spec, "num_byzantine": f} for f in (1, 2) for spec in specs]
    simulation = make(6, task="test_task", per_environment=overrides)
    assert built == [(1,), [1], [1.0]]
    assert len(calls) == 1
    assert simulation.byzantine.sum(1).tolist() == [1, 1, 1, 2, 2, 2]
