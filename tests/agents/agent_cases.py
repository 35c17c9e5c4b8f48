"""Simulations, rounds and hand-made jobs that the tests of the agents share."""

import torch
from torch.nn import functional as F

from byzgym.aggregation import Decision, ServerView
from byzgym.simulation import Simulation

ID = "ByzantineAggregation-v0"
TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "batch_size": 4, "rounds": 5}


def make(num_envs=2, seed=0, **arguments):
    return Simulation.make(num_envs, seed, **{**TINY, "attack": "sign_flip", **arguments})


def mix(credits, gradients):
    return (credits[..., None] * gradients).sum(1)


def play(agent, simulation, rounds):
    """Let the agent decide; the credits [rounds, E, n] that it gave."""
    credits = []
    for _ in range(rounds):
        credits.append(agent.credits(simulation.view).clone())
        simulation.apply(Decision(mix(credits[-1], simulation.gradients), credits[-1]))
    return torch.stack(credits)


def assert_on_simplex(credits):
    assert credits.isfinite().all()
    assert (credits >= 0).all()
    torch.testing.assert_close(credits.sum(-1), torch.ones(credits.shape[:-1]))


def view_of(gradients, rejected=None):
    """A record of a server whose QV loss is |theta - 1|^2 / d."""
    gradients = torch.as_tensor(gradients)
    theta = torch.zeros(gradients.shape[0], gradients.shape[2])
    return ServerView(
        gradients=gradients,
        theta=theta,
        learning_rate=torch.full((len(theta),), 0.1),
        qv_loss=lambda theta: (theta - 1).square().mean(1),
        rejected=rejected,
    )


def normal_view(num_envs=2, num_workers=10, num_coordinates=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return view_of(torch.randn(num_envs, num_workers, num_coordinates, generator=generator))


class Job:
    """Linear regression in plain torch, without byzgym: 5 workers, the last 3 of which flip the sign."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.truth = torch.randn(6, generator=generator)
        self.x = torch.randn(5, 40, 6, generator=generator)
        self.own_x = torch.randn(20, 6, generator=generator)
        self.theta = torch.zeros(6)

    def loss(self, theta, x):
        return F.mse_loss(x @ theta, x @ self.truth)

    def submissions(self):
        rows = []
        for worker, x in enumerate(self.x):
            theta = self.theta.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.loss(theta, x), theta)
            rows.append(gradient if worker < 2 else -gradient)
        return torch.stack(rows)

    def run(self, agent, rounds, learning_rate=0.1):
        """Train with only the four required fields and the round; the credits [rounds, n] given."""
        given = []
        for number in range(rounds):
            view = ServerView(
                gradients=self.submissions()[None],
                theta=self.theta[None],
                learning_rate=torch.tensor([learning_rate]),
                qv_loss=lambda theta: torch.stack([self.loss(row, self.own_x) for row in theta]),
                round=torch.tensor([number]),
            )
            decision = agent.decide(view)
            given.append(decision.credits[0])
            mixed, largest = mix(given[-1][None], view.gradients), float(view.gradients.abs().max())
            torch.testing.assert_close(decision.update, mixed, rtol=1.3e-6, atol=1e-6 * largest)
            self.theta = self.theta - learning_rate * decision.update[0]
        return torch.stack(given)
