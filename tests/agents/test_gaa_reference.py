"""GAA against a slow and plain re-implementation."""

import math

import pytest
import torch
from agent_cases import make, mix, normal_view
from torch import nn
from torch.nn import functional as F

from byzgym import agents
from byzgym.agents.gaa import _features


def andrychowicz(g):
    """The preprocessing of appendix A, entry by entry, with p = 10."""
    if abs(g) >= math.exp(-10):
        return math.log(abs(g)) / 10, math.copysign(1.0, g)
    return -1.0, math.exp(10) * g


class SlowGAA:
    """One environment's GAA with nn.Linear, explicit features [d, 3 n + 2] and torch.optim.Adam."""

    def __init__(self, weights, qv_loss, window, learning_rate, after_rise):
        layers = []
        for weight, bias in zip(weights[::2], weights[1::2], strict=True):
            layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
            with torch.no_grad():
                layer.weight.copy_(weight)
                layer.bias.copy_(bias[:, 0])
            layers += [layer, nn.ReLU()]
        self.network = nn.Sequential(*layers[:-1])
        self.adam = torch.optim.Adam(self.network.parameters(), lr=learning_rate)
        self.qv_loss, self.window = qv_loss, window
        self.steps, self.largest_gradient = None, 0.0
        self.after_rise, self.rises = after_rise, 0

    def credits(self, gradients, theta, learning_rate):
        gradients = gradients.clone()  # the simulation writes over its own
        if self.steps is not None:
            torch.testing.assert_close(self.theta.detach(), theta)
            loss = self.after(self.qv_loss(self.theta))
            self.losses.append(loss)
            if self.steps == self.window:
                self.learn()
        if self.steps is None:
            self.theta, self.steps, self.losses = theta.clone(), 0, []
            loss = self.qv_loss(theta)
            last = torch.full((len(gradients),), 1 / len(gradients))
            self.last = self.last.detach() if hasattr(self, "last") else last
        rows = []
        for j in range(len(theta)):
            pairs = [andrychowicz(g) for g in gradients[:, j].tolist()]
            numbers = [pair[0] for pair in pairs] + [pair[1] for pair in pairs] + [float(theta[j])]
            rows.append(torch.cat([torch.tensor(numbers), loss.log1p()[None], self.last]))
        self.last = torch.softmax(self.network(torch.stack(rows)).mean(0), 0)
        self.began = theta.clone()
        self.theta = self.theta - learning_rate * (self.last @ gradients)
        self.steps += 1
        return self.last.detach()

    def after(self, loss):
        """The loss after a round; where it rose, with the gradient at the point where the round began."""
        began = self.began.requires_grad_()
        before = self.qv_loss(began)
        if loss <= before:
            return loss
        self.rises += 1
        if self.after_rise == "end":
            return loss
        (gradient,) = torch.autograd.grad(before, began)
        return loss.detach() + gradient @ (self.theta - self.theta.detach())

    def learn(self):
        self.adam.zero_grad()
        sum(self.losses).backward()
        for parameter in self.network.parameters():
            self.largest_gradient = max(self.largest_gradient, float(parameter.grad.abs().max()))
            parameter.grad.clamp_(-1, 1)
        self.adam.step()
        self.steps = None


def plain_qv_loss(simulation, env):
    """Cross entropy of a 2-3-3 MLP with ReLU on the environment's own QV samples."""
    x, y = simulation.quasi_validation.x[env], simulation.quasi_validation.y[env]

    def loss(theta):
        first, bias, second, out = theta.split([6, 3, 9, 3])
        hidden = F.relu(F.linear(x, first.view(3, 2), bias))
        return F.cross_entropy(F.linear(hidden, second.view(3, 3), out), y)

    return loss


def small(num_envs=1, seed=4, **arguments):
    task = {"name": "synthetic", "num_features": 2}
    return make(num_envs, seed, **{"task": task, "model": "mlp:3", "num_workers": 4, **arguments})


def initial_weights(path, view, **parameters):
    """The weights of a fresh policy: nothing has been learned in the first round."""
    agent = agents.make("gaa", **parameters)
    agent.credits(view)
    agent.save(path)
    return torch.load(path, weights_only=True)["policy"]


def compare_with_slow(path, learning_rate, num_envs=3, **parameters):
    """Ten rounds of both; how far credits went, the largest gradient before the clamp, how many rises."""
    simulation = small(num_envs, learning_rate=learning_rate)
    parameters["learning_rate"] = 0.05
    window, after_rise = parameters["window"], parameters["after_rise"]
    weights = initial_weights(path, simulation.view, **parameters)
    slow = [
        SlowGAA([w[e] for w in weights], plain_qv_loss(simulation, e), window, 0.05, after_rise)
        for e in range(num_envs)
    ]
    agent, first = agents.make("gaa", **parameters), None
    for _ in range(10):
        view = simulation.view
        credits = agent.credits(view)
        first = credits if first is None else first
        for e in range(num_envs):
            expected = slow[e].credits(view.gradients[e], view.theta[e], learning_rate)
            torch.testing.assert_close(credits[e], expected, rtol=1e-4, atol=5e-6)
        simulation.apply(mix(credits, view.gradients))
    largest, rises = max(s.largest_gradient for s in slow), sum(s.rises for s in slow)
    return (credits - first).abs().max(), largest, rises


@pytest.mark.parametrize("hidden", [(), (8,)])
@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("after_rise", ["start", "end"])
def test_credits_equal_the_slow_implementation(tmp_path, window, hidden, after_rise):
    moved, _, rises = compare_with_slow(
        tmp_path / "policy.pt", 0.3, window=window, hidden=hidden, after_rise=after_rise
    )
    assert moved > 0.02, "nothing was learned, so nothing was compared"
    assert rises, "no loss rose, so `after_rise` was not compared"


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_gradients_are_clamped_to_one(tmp_path, hidden):
    path = tmp_path / "policy.pt"
    _, largest, _ = compare_with_slow(path, 0.6, window=3, hidden=hidden, after_rise="end")
    assert largest > 2, "no gradient met the clamp"


def test_initial_weights_are_those_of_linear(tmp_path):
    weight, bias = initial_weights(tmp_path / "policy.pt", normal_view(), seed=3)
    assert weight.shape == (2, 10, 32)
    assert bias.shape == (2, 10, 1)
    assert torch.equal(weight[0], weight[1])
    for values in (weight, bias):
        assert 0.6 * 32**-0.5 < values.abs().max() <= 32**-0.5
    other = initial_weights(tmp_path / "policy.pt", normal_view(), seed=4)
    assert not torch.equal(weight, other[0])


def preprocessed(rows, pooled=False):
    """The two numbers of every submission, without the parameters."""
    return _features(rows, torch.zeros(len(rows), rows.shape[2]), pooled)[:, :-1]


ENTRIES = [0.0, 1e-38, -1e-38, 1e-6, -1e-6, 4e-5, 5e-5, -5e-5, 0.3, -1.0, 7.0, -1e10, 1e30, -3e38]


def test_preprocessing_by_hand():
    expected = torch.tensor([andrychowicz(g) for g in ENTRIES]).T
    assert expected[:, 0].tolist() == [-1, 0]
    rows = torch.tensor(ENTRIES)[None, None]
    torch.testing.assert_close(preprocessed(rows)[0], expected, rtol=1e-5, atol=1e-7)
    means = preprocessed(rows, pooled=True)[0]
    torch.testing.assert_close(means, expected.mean(1, keepdim=True), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dimension", [1, 7, 8, 9, 100])
def test_pooled_preprocessing_is_the_mean(dimension):
    rows = torch.randn(3, 5, dimension, generator=torch.Generator().manual_seed(0)) * 1e-2
    rows[1, 2] *= 1e30  # products of such entries overflow
    rows[2, 0] = 0
    pooled, expected = preprocessed(rows, pooled=True), preprocessed(rows).mean(2, keepdim=True)
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-6)
    alone = torch.cat([preprocessed(rows[e : e + 1], pooled=True) for e in range(3)])
    assert torch.equal(pooled, alone)
