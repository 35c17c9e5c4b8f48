"""trust: by hand, against a slow reference, and through episodes."""

import math

import pytest
import torch

from byzgym import agents, aggregation
from byzgym.aggregation import ServerView
from byzgym.memory import Memory
from byzgym.simulation import Simulation


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def view_of(gradients, server, memory, **fields):
    """A view whose QV gradient is ``server`` [E, d]."""
    theta = torch.zeros_like(server)
    return ServerView(gradients, theta, 0.1, lambda theta: (theta * server).sum(1), memory=memory, **fields)


def slow_evidence(gradients, server):
    """The evidence of one run, by the formula of the docstring."""
    n = len(gradients)

    def cosine(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    x = [cosine(row, server) for row in gradients]
    evidence = []
    for i in range(n):
        c = [cosine(gradients[i], gradients[j]) for j in range(n)]
        evidence.append(sum(c[j] * x[j] for j in range(n)) / sum(abs(value) for value in c))
    return torch.tensor(evidence)


def slow_credits(trust, gradients, server):
    if all(value <= 0 for value in trust):
        return torch.zeros(len(trust))
    rms = math.sqrt(sum(float(value) ** 2 for value in trust) / len(trust))
    credits = torch.tensor([math.exp(4 * float(value) / rms) for value in trust])
    credits /= credits.sum()
    norms = [float(row.norm()) for row in gradients]
    mean = math.exp(sum(float(c) * math.log(norm) for c, norm in zip(credits, norms, strict=True)))
    reference = min(max(mean, float(server.norm())), 3 * float(server.norm()))
    factors = [min(1, 1.5 * reference / norm) for norm in norms]
    return credits * torch.tensor(factors)


def test_credits_are_those_of_the_formula_round_by_round():
    memory, rule = Memory(num_envs=2), aggregation.make("trust")
    mean = torch.zeros(2, 5)
    for number in range(4):
        gradients, server = normal(2, 5, 9, seed=number), normal(2, 9, seed=50 + number)
        gradients = gradients * torch.tensor([0.1, 1, 3, 20, 1.0])[:, None] + server[:, None]
        decision = rule.decide(view_of(gradients, server, memory))
        for env in range(2):
            mean[env] = 0.9 * mean[env] + 0.1 * slow_evidence(gradients[env], server[env])
            trust = mean[env] / (1 - 0.9 ** (number + 1))
            expected = slow_credits(trust, gradients[env], server[env])
            torch.testing.assert_close(decision.credits[env], expected, rtol=1e-4, atol=1e-5)
        update = (decision.credits[..., None] * gradients).sum(1)
        torch.testing.assert_close(decision.update, update, rtol=1e-4, atol=1e-5)


def test_nobody_gets_credit_where_nobody_agrees():
    server = torch.ones(1, 3)
    decision = aggregation.make("trust").decide(view_of(-torch.ones(1, 4, 3), server, Memory(1)))
    assert decision.credits.tolist() == [[0] * 4]
    assert decision.update.tolist() == [[0] * 3]


def test_rejected_submissions_get_nothing():
    gradients = torch.ones(1, 3, 2)
    gradients[0, 1, 0] = torch.nan
    decision = aggregation.make("trust").decide(view_of(gradients, torch.ones(1, 2), Memory(1)))
    torch.testing.assert_close(decision.credits, torch.tensor([[0.5, 0, 0.5]]))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e30])
def test_the_scale_of_everything_has_no_effect(scale):
    gradients, server = normal(1, 5, 8), normal(1, 8, seed=1)
    credits = [
        aggregation.make("trust").credits(view_of(factor * gradients, factor * server, Memory(1)))
        for factor in (1, scale)
    ]
    torch.testing.assert_close(*credits, rtol=1e-3, atol=1e-5)


def test_it_needs_a_memory_and_the_qv_loss():
    gradients = torch.ones(1, 3, 2)
    rule = aggregation.make("trust")
    with pytest.raises(ValueError, match="memory"):
        rule.decide(ServerView(gradients, torch.zeros(1, 2), 0.1, lambda theta: theta.sum(1)))
    with pytest.raises(ValueError, match="qv_loss"):
        rule.decide(ServerView(gradients, torch.zeros(1, 2), 0.1, None, memory=Memory(1)))
    with pytest.raises(TypeError, match="ServerView"):
        rule(gradients)


def test_a_run_survives_a_malicious_majority():
    accuracy = {}
    for name in ("trust", "oracle", "mean"):
        simulation = Simulation.make(num_envs=4, seed=0, attack="sign_flip", num_byzantine=7)
        policy = agents.build(name, simulation)
        for _ in range(60):
            simulation.apply(policy.decide(simulation.view))
        accuracy[name] = float(simulation.evaluate()["accuracy"].mean())
    assert accuracy["trust"] > 0.9 * accuracy["oracle"] > 2 * accuracy["mean"]
