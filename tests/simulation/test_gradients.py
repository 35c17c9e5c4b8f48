"""Per-worker gradients against a loop of backward calls."""

import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from byzgym.ambient import seeded
from byzgym.simulation.dense import DenseEngine
from byzgym.simulation.gradients import engine_for
from byzgym.simulation.modules import ModuleEngine
from byzgym.tasks import models


def problem(spec, shape=(1, 8, 8), num_envs=3, num_workers=4, batch_size=5, scale=0.3):
    """A module, its engine, and parameters, inputs and labels for it."""
    generator = torch.Generator().manual_seed(0)
    if callable(spec):
        models.register("of_a_test", lambda shape, classes, build=spec: build())
        spec = "of_a_test"
    with seeded(generator):
        module = models.build(spec, shape, 10)
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    theta = scale * torch.randn(num_envs, num_parameters, generator=generator)
    x = torch.randn(num_envs, num_workers, batch_size, *shape, generator=generator)
    y = torch.randint(10, (num_envs, num_workers, batch_size), generator=generator)
    engine = engine_for(module, x[0, 0], y[0, 0])
    return module, engine, theta, x, y


def by_loop(module, theta, x, y):
    """One backward call per worker, on a plain module."""
    rows = torch.empty(*y.shape[:2], theta.shape[1])
    for e in range(len(theta)):
        nn.utils.vector_to_parameters(theta[e], module.parameters())
        for i in range(y.shape[1]):
            module.zero_grad()
            F.cross_entropy(module(x[e, i]), y[e, i]).backward()
            rows[e, i] = torch.cat([p.grad.flatten() for p in module.parameters()])
    return rows


def by_engine(engine, theta, x, y, seeds=(0, 1, 2, 3)):
    out = torch.full((*y.shape[:2], engine.num_parameters), torch.nan)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds[: len(theta)]]
    engine.gradients(theta, x, y, generators, out)
    return out


@pytest.mark.parametrize(
    ("spec", "kind", "shape"),
    [
        ("softmax", DenseEngine, (1, 8, 8)),
        ("mlp:7", DenseEngine, (64,)),
        ("mlp:3,9,5", DenseEngine, (1, 8, 8)),
        ("lenet", ModuleEngine, (1, 28, 28)),
    ],
)
def test_engines_equal_a_loop_of_backward_calls(spec, kind, shape):
    module, engine, theta, x, y = problem(spec, shape, scale=0.1)
    assert isinstance(engine, kind)
    torch.testing.assert_close(
        by_engine(engine, theta, x, y), by_loop(module, theta, x, y), rtol=1e-3, atol=1e-6
    )


class Doubled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    module.register_forward_hook(lambda module, inputs, output: 2 * output)
    return module


def one_layer_twice():
    layer = nn.Linear(64, 64)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(64, 10))


def one_weight_twice():
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), nn.Linear(64, 10))


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.last = nn.Linear(8, 10)

    def forward(self, x):
        return self.last(self.attention(x.flatten(1, 2)).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent, self.last = nn.GRU(8, 6, batch_first=True), nn.Linear(6, 10)

    def forward(self, x):
        return self.last(self.recurrent(x.flatten(1, 2))[0][:, -1])


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        y = self.last(x.flatten(1))
        return 2 * y if y.sum() > 0 else y


MODULES = {
    "subclass": lambda: Doubled(nn.Flatten(), nn.Linear(64, 10)),
    "no_bias": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False)),
    "late_flatten": lambda: nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)),
    "hook": hooked,
    "one_layer_twice": one_layer_twice,
    "one_weight_twice": one_weight_twice,
    "prelu": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.PReLU(), nn.Linear(8, 10)),
    "large": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 250), nn.PReLU(), nn.Linear(250, 10)),
    "norm": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 10)),
    "attention": Attentive,
    "recurrent": Recurrent,
    "branching": Branching,
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("num_envs", [1, 3, 4])  # 4 is the number of workers, too
@pytest.mark.parametrize("name", MODULES)
def test_modules_of_every_kind(name, num_envs):
    module, engine, theta, x, y = problem(MODULES[name], num_envs=num_envs)
    assert isinstance(engine, ModuleEngine)
    out = by_engine(engine, theta, x, y)
    torch.testing.assert_close(out, by_loop(module, theta, x, y), rtol=1e-3, atol=1e-5)
    _, gradient = engine.loss_and_gradient(theta, x[:, 0], y[:, 0])
    torch.testing.assert_close(gradient, out[:, 0], rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_the_attention_shortcut_is_put_back():
    _, engine, theta, x, y = problem(Attentive)
    for shortcut in (False, True):
        torch.backends.mha.set_fastpath_enabled(shortcut)
        engine.loss_and_gradient(theta, x[:, 0], y[:, 0])
        assert torch.backends.mha.get_fastpath_enabled() is shortcut


class Noisy(nn.Module):
    """Draws where no dropout layer is to be seen."""

    def __init__(self, noise, width=8, evaluated_too=False):
        super().__init__()
        self.first, self.last = nn.Linear(64, width), nn.Linear(width, 10)
        self.noise, self.evaluated_too = noise, evaluated_too

    def forward(self, x):
        hidden = self.first(x.flatten(1))
        if self.training or self.evaluated_too:
            hidden = hidden * self.noise(hidden)
        return self.last(hidden)


NOISES = {
    "torch": lambda x: F.dropout(torch.ones_like(x)),
    "numpy": lambda x: np.random.rand(),  # noqa: NPY002
    "python": lambda x: random.random(),
}


@pytest.mark.parametrize("width", [8, 300])
@pytest.mark.parametrize("noise", NOISES)
def test_draws_come_from_the_generators(noise, width):
    _, engine, theta, x, y = problem(lambda: Noisy(NOISES[noise], width))
    assert engine.draws
    first, again, other = (by_engine(engine, theta, x, y, s) for s in ([0, 1, 2], [0, 1, 2], [5, 1, 2]))
    assert torch.equal(first, again)
    assert not torch.allclose(first[0], other[0])
    torch.testing.assert_close(by_engine(engine, theta[2:], x[2:], y[2:], [2]), first[2:])


@pytest.mark.parametrize("noise", NOISES)
def test_draws_in_evaluation_are_refused(noise):
    with pytest.raises(ValueError, match="model must not draw random numbers in evaluation mode"):
        problem(lambda: Noisy(NOISES[noise], evaluated_too=True))


def dropout():
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))


def test_dropout_differs_between_workers():
    _, engine, theta, x, y = problem(dropout)
    x, y = torch.ones_like(x), torch.zeros_like(y)
    losses = [engine.loss(theta, x[:, 0], y[:, 0]) for _ in range(2)]
    assert torch.equal(*losses)  # evaluation has no dropout
    out = by_engine(engine, theta, x, y)
    assert (out == 0).any()  # the weights of inputs that are dropped in the whole batch
    assert not torch.equal(out[0, 0], out[0, 1])


@pytest.mark.parametrize("spec", ["mlp:6", "lenet"])
def test_gradients_go_into_the_rows_of_a_buffer(spec):
    _, engine, theta, x, y = problem(spec, (1, 28, 28))
    wide = torch.full((3, 6, engine.num_parameters + 2), 7.0)
    rows = torch.tensor([[0, 1, 2, 3], [5, 4, 2, 1], [0, 2, 3, 5]])
    engine.gradients(theta, x, y, [torch.Generator()] * 3, wide[..., 1:-1], rows)
    expected = torch.full_like(wide, 7.0)
    expected[torch.arange(3)[:, None], rows, 1:-1] = by_engine(engine, theta, x, y)
    assert torch.equal(wide, expected)


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("spec", ["mlp:6", dropout, "lenet"], ids=["mlp", "dropout", "lenet"])
def test_the_loss_and_its_gradient(spec, mode):
    shape = (1, 28, 28) if spec == "lenet" else (1, 8, 8)
    _, engine, theta, x, y = problem(spec, shape, scale=0.1)
    with mode():
        value, gradient = engine.loss_and_gradient(theta, x[:, 0], y[:, 0])
    assert not value.requires_grad
    assert not gradient.requires_grad
    theta.requires_grad_()
    loss = engine.loss(theta, x[:, 0], y[:, 0])
    torch.testing.assert_close(value, loss.detach())
    torch.testing.assert_close(gradient, *torch.autograd.grad(loss.sum(), theta), rtol=1e-4, atol=1e-6)
    logits = engine.logits(theta.detach(), x[:, 0])
    torch.testing.assert_close(F.cross_entropy(logits[1], y[1, 0]), value[1])


@pytest.mark.parametrize("spec", ["mlp:6", "lenet"])
def test_a_loss_of_zero_has_no_sign(spec):
    _, engine, theta, x, y = problem(spec, (1, 28, 28), num_envs=1, num_workers=1, scale=0)
    theta[:, -10:] = torch.tensor([1000.0] + 9 * [-1000.0])  # the last biases
    evaluated = theta, x[:, 0], 0 * y[:, 0]
    for loss in (engine.loss(*evaluated), engine.loss_and_gradient(*evaluated)[0]):
        assert loss.item() == 0
        assert not loss.signbit()


class Dropped(nn.Module):
    """A convolution and dropout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 36, 3)
        )

    def forward(self, x):
        return self.layers(x)


def test_workers_with_dropout_draw_the_same_whoever_is_left_out():
    generator = torch.Generator().manual_seed(0)
    with seeded(generator):
        module = Dropped()
    x, y = (
        torch.randn(2, 4, 9, 1, 8, 8, generator=generator),
        torch.randint(3, (2, 4, 9), generator=generator),
    )
    engine = engine_for(module, x[0, 0], y[0, 0])
    theta = torch.randn(2, engine.num_parameters, generator=generator) / 10
    assert engine.draws
    assert engine.one_by_one(9, theta.device)
    whole, part = torch.zeros(2, 4, engine.num_parameters), torch.zeros(2, 4, engine.num_parameters)
    rows = torch.tensor([[0, 2], [1, 3]])
    env = torch.arange(2)[:, None]
    engine.gradients(theta, x, y, [torch.Generator().manual_seed(e) for e in range(2)], whole)
    lent = [torch.Generator().manual_seed(e) for e in range(2)]
    engine.gradients(theta, x[env, rows], y[env, rows], lent, part, rows)
    assert part[env, rows].equal(whole[env, rows])
    assert not part[0, 1].any()
    assert not whole[0, 0].allclose(whole[0, 1])


@pytest.mark.parametrize(
    ("model", "batch_size", "chosen"), [("lenet", 8, True), ("lenet", 7, False), ("mlp:9", 8, False)]
)
def test_workers_one_by_one_or_all_at_once(model, batch_size, chosen):
    module, _, theta, x, y = problem(model, shape=(3, 32, 32), batch_size=batch_size, scale=0.05)
    found = []
    for one_by_one in (None, True, False):
        engine = engine_for(module, x[0, 0, :2], y[0, 0, :2], one_by_one)
        assert engine.one_by_one(batch_size, theta.device) == (chosen if one_by_one is None else one_by_one)
        found.append(by_engine(engine, theta, x, y))
    assert torch.equal(found[0], found[1 if chosen else 2])
    torch.testing.assert_close(found[1], found[2], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("spec", ["mlp:8", "lenet"])
def test_gradients_carry_no_graph(spec):
    _, engine, theta, x, y = problem(spec, shape=(1, 16, 16), batch_size=9)
    out = torch.zeros(*y.shape[:2], engine.num_parameters)
    engine.gradients(theta.requires_grad_(), x, y, [torch.Generator() for _ in theta], out)
    assert out.any()
    assert not out.requires_grad
