"""Rounds that only some environments play: each still has its own workers and its own step size."""

import pytest
import torch
from simulation_cases import make

from byzgym import attacks


@pytest.mark.parametrize("model", ["mlp:16", "softmax"])
@pytest.mark.parametrize("envs", [[1], [2, 0]])
def test_poisoned_data_reach_the_byzantine_workers_of_the_environments_that_play(envs, model):
    arguments = {"attack": "label_flip", "num_byzantine": 3, "model": model}
    batch = make(3, **arguments)
    assert len(batch.byzantine.unique(dim=0)) == 3
    update = torch.full_like(batch.view.theta, 1e-2)
    batch.apply(update, envs=envs)
    for env in envs:
        alone = make(1, seed=env, **arguments)
        alone.apply(update[:1])
        assert torch.equal(batch.byzantine[env], alone.byzantine[0])
        torch.testing.assert_close(batch.gradients[env], alone.gradients[0], rtol=1e-4, atol=1e-6)


def test_attacks_see_the_step_size_of_the_environments_that_play():
    seen = []

    def look(gradients, byzantine, context):
        seen.append(context.learning_rate.tolist())
        return gradients

    attacks.register("test_look", lambda: look)
    rate = {"initial": 0.8, "schedule": "step", "every": 1, "factor": 0.5}
    simulation = make(3, attack="test_look", learning_rate=rate)
    for envs in ([2], [1, 2], [2, 0], None):
        simulation.apply(torch.zeros_like(simulation.view.theta), envs=envs)
    expected = [[0.8, 0.8, 0.8], [0.4], [0.4, 0.2], [0.1, 0.4], [0.2, 0.2, 0.05]]
    assert [pytest.approx(rates) for rates in expected] == seen
