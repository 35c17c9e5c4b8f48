"""Inside a training job's `torch.autocast`, rules, agents and simulations compute as they do outside."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from byzgym import agents, aggregation
from byzgym.aggregation import ServerView
from byzgym.simulation import Simulation

TINY = {"task": "synthetic", "num_workers": 7, "num_byzantine": 1, "attack": "alie", "model": "mlp:8"}


def half():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("name", aggregation.names())
def test_rules(name):
    rows = torch.randn(7, 300, generator=torch.Generator().manual_seed(0)) + 3
    rule = aggregation.make(name, num_byzantine=1)
    expected = rule(rows)
    with half():
        assert (torch.eye(2) @ torch.eye(2)).dtype == torch.bfloat16
        assert torch.equal(rule(rows), expected)
        if rule.linear:
            mixed = aggregation.combine(rule.credits(rows), rows)
            torch.testing.assert_close(mixed, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model", ["mlp:8", "softmax"])
def test_simulation_and_gaa(model):
    def run():
        simulation = Simulation.make(2, seed=0, **{**TINY, "model": model})
        agent = agents.make("gaa", window=2)
        for _ in range(5):
            simulation.apply(agent.aggregate(simulation.view))
        measured = simulation.evaluate()["test_loss"], simulation.qv_loss(), simulation.view.qv_gradient
        return simulation.view.theta, *measured

    expected = run()
    with half():
        got = run()
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_environment(dtype):
    def run():
        env = gym.make("ByzantineAggregation-v0", **TINY, observation="all").unwrapped
        observation, _ = env.reset(seed=0)
        seen = [observation, *(env.step(np.full(7, one))[0] for one in (0.1, 0.2))]
        return {name: np.stack([each[name] for each in seen]) for name in observation}

    expected = run()
    with torch.autocast("cpu", dtype=dtype):
        got = run()
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)


def test_views_of_a_training_job():
    """GAA takes gradients with a graph and a learning rate that is a number."""
    generator = torch.Generator().manual_seed(0)
    rows, target = torch.randn(3, 5, 4, generator=generator)[0], torch.ones(4)

    def view(rows, learning_rate):
        return ServerView(
            gradients=rows[None],
            theta=torch.zeros(1, 4),
            learning_rate=learning_rate,
            qv_loss=lambda theta: (theta - target).square().sum(1),
        )

    expected = agents.make("gaa").credits(view(rows, torch.tensor([0.3])))
    for rate in (0.3, torch.tensor(0.3, dtype=torch.float64)):
        plain = view(rows.clone().requires_grad_() * 1, rate)
        assert plain.learning_rate.tolist() == torch.tensor([0.3]).tolist()
        assert torch.equal(agents.make("gaa").credits(plain), expected)
    with pytest.raises(ValueError, match=r"learning_rate must have shape \[E\] = \[1\], got \(1, 1\)"):
        view(rows, torch.tensor([[0.3]]))
