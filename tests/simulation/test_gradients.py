"""Per-worker gradients against a loop of backward calls."""

import random

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


def problem(spec, shape=(1, 8, 8), num_envs=3, num_workers=4, batch_size=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with seeded(generator):
        module = models.build(spec, shape, 10)
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    theta = 0.3 * torch.randn(num_envs, num_parameters, generator=generator)
    x = torch.randn(num_envs, num_workers, batch_size, *shape, generator=generator)
    y = torch.randint(10, (num_envs, num_workers, batch_size), generator=generator)
    engine = engine_for(module, x[0, 0], y[0, 0])
    return module, engine, theta, x, y


def generators(count):
    return [torch.Generator().manual_seed(e) for e in range(count)]


@pytest.mark.parametrize("spec", ["softmax", "mlp:7", "mlp:16,16", "mlp:3,9,5"])
def test_dense_engine_equals_a_backward_loop(spec):
    module, engine, theta, x, y = problem(spec)
    assert isinstance(engine, DenseEngine)
    out = torch.full((3, 4, engine.num_parameters), torch.nan)
    engine.gradients(theta, x, y, generators(3), out)
    torch.testing.assert_close(out, by_loop(module, theta, x, y), rtol=1e-4, atol=1e-6)


def test_module_engine_equals_a_backward_loop():
    module, engine, theta, x, y = problem("lenet", (1, 28, 28), num_envs=2, num_workers=3)
    assert isinstance(engine, ModuleEngine)
    out = torch.full((2, 3, engine.num_parameters), torch.nan)
    engine.gradients(theta * 0.1, x, y, generators(2), out)
    torch.testing.assert_close(out, by_loop(module, theta * 0.1, x, y), rtol=1e-3, atol=1e-5)


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


@pytest.mark.parametrize(
    "build",
    [
        lambda: Doubled(nn.Flatten(), nn.Linear(64, 10)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False)),
        lambda: nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)),
        hooked,
        one_layer_twice,
        one_weight_twice,
    ],
    ids=["subclass", "no_bias", "late_flatten", "hook", "one_layer_twice", "one_weight_twice"],
)
def test_modules_that_resemble_a_perceptron(build):
    models.register("test_resembling", lambda shape, classes: build())
    module, engine, theta, x, y = problem("test_resembling")
    assert isinstance(engine, ModuleEngine)
    expected = by_loop(module, theta, x, y)
    out = torch.full((3, 4, engine.num_parameters), torch.nan)
    engine.gradients(theta, x, y, generators(3), out)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


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


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("num_envs", [1, 3, 4])  # 4 is the number of workers, too
@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.PReLU(), nn.Linear(8, 10)),
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(72, 10)),
        Attentive,
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 250), nn.PReLU(), nn.Linear(250, 10)),
        Recurrent,
        Branching,
    ],
    ids=["prelu", "group_norm", "attention", "large", "recurrent", "branching"],
)
def test_layers_with_parameters_of_every_kind(build, num_envs):
    models.register("test_layers", lambda shape, classes: build())
    module, engine, theta, x, y = problem("test_layers", num_envs=num_envs)
    out = torch.full((num_envs, 4, engine.num_parameters), torch.nan)
    engine.gradients(theta, x, y, generators(num_envs), out)
    torch.testing.assert_close(out, by_loop(module, theta, x, y), rtol=1e-3, atol=1e-5)
    _, gradient = engine.loss_and_gradient(theta, x[:, 0], y[:, 0])
    torch.testing.assert_close(gradient, out[:, 0], rtol=1e-3, atol=1e-5)


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
def test_hidden_draws_come_from_the_generators(noise, width):
    models.register("test_noisy", lambda shape, classes: Noisy(NOISES[noise], width))
    _, engine, theta, x, y = problem("test_noisy")
    outs = []
    for part in (slice(None), slice(None), slice(2, 3)):
        outs.append(torch.empty(len(theta[part]), 4, engine.num_parameters))
        engine.gradients(theta[part], x[part], y[part], generators(3)[part], outs[-1])
    assert torch.equal(outs[0], outs[1])
    torch.testing.assert_close(outs[0][2:], outs[2])
    assert not torch.equal(*engine.logits(theta[:1].expand(2, -1), x[:2, 0]))


@pytest.mark.parametrize("noise", NOISES)
def test_draws_in_evaluation_are_refused(noise):
    models.register("test_noisy", lambda shape, classes: Noisy(NOISES[noise], evaluated_too=True))
    with pytest.raises(ValueError, match="model must not draw random numbers in evaluation mode"):
        problem("test_noisy")


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_the_attention_shortcut_is_put_back():
    models.register("test_attentive", lambda shape, classes: Attentive())
    _, engine, theta, x, y = problem("test_attentive")
    for shortcut in (False, True):
        torch.backends.mha.set_fastpath_enabled(shortcut)
        engine.loss_and_gradient(theta, x[:, 0], y[:, 0])
        assert torch.backends.mha.get_fastpath_enabled() is shortcut


def test_both_engines_agree():
    module, dense, theta, x, y = problem("mlp:6")
    general = ModuleEngine(module)
    outs = [torch.empty(3, 4, dense.num_parameters) for _ in range(2)]
    dense.gradients(theta, x, y, generators(3), outs[0])
    general.gradients(theta, x, y, generators(3), outs[1])
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(dense.logits(theta, x[:, 0]), general.logits(theta, x[:, 0]))
    for first, second in zip(
        dense.loss_and_gradient(theta, x[:, 0], y[:, 0]),
        general.loss_and_gradient(theta, x[:, 0], y[:, 0]),
        strict=True,
    ):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_gradients_go_into_a_strided_buffer():
    _, engine, theta, x, y = problem("mlp:6")
    wide = torch.full((3, 4, engine.num_parameters + 2), 7.0)
    engine.gradients(theta, x, y, generators(3), wide[..., 1:-1])
    alone = torch.empty(3, 4, engine.num_parameters)
    engine.gradients(theta, x, y, generators(3), alone)
    assert torch.equal(wide[..., 1:-1], alone)
    assert (wide[..., 0] == 7).all()
    assert (wide[..., -1] == 7).all()


def test_loss_matches_its_gradient():
    _, engine, theta, x, y = problem("mlp:6")
    theta.requires_grad_()
    loss = engine.loss(theta, x[:, 0], y[:, 0])
    (gradient,) = torch.autograd.grad(loss.sum(), theta)
    value, direct = engine.loss_and_gradient(theta.detach(), x[:, 0], y[:, 0])
    torch.testing.assert_close(loss.detach(), value)
    torch.testing.assert_close(gradient, direct, rtol=1e-4, atol=1e-6)


def test_dropout_draws_from_the_generators():
    _, engine, theta, x, y = problem("xie_cnn", (3, 8, 8), num_envs=2, num_workers=2, batch_size=2)
    outs = []
    for _ in range(2):
        out = torch.empty(2, 2, engine.num_parameters)
        engine.gradients(theta * 0.03, x, y, generators(2), out)
        outs.append(out)
    assert torch.equal(*outs)
    alone = torch.empty(1, 2, engine.num_parameters)
    engine.gradients(theta[1:] * 0.03, x[1:], y[1:], generators(2)[1:], alone)
    torch.testing.assert_close(alone[0], outs[0][1])
    other = torch.empty(2, 2, engine.num_parameters)
    engine.gradients(theta * 0.03, x, y, [torch.Generator().manual_seed(9), generators(1)[0]], other)
    assert not torch.allclose(other[0], outs[0][0])
    # Evaluation has no dropout.
    first, second = (engine.loss(theta * 0.03, x[:, 0], y[:, 0]) for _ in range(2))
    assert torch.equal(first, second)


def dropout_problem():
    models.register(
        "test_dropout",
        lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, classes)),
    )
    _, engine, theta, x, y = problem("test_dropout")
    return engine, theta, torch.ones_like(x), torch.zeros_like(y)


def test_dropout_differs_between_workers():
    engine, theta, x, y = dropout_problem()
    engine.logits(theta, x[:, 0])  # in evaluation mode
    out = torch.empty(3, 4, engine.num_parameters)
    engine.gradients(theta, x, y, generators(3), out)
    assert (out == 0).any()  # the weights of inputs that are dropped in the whole batch
    assert not torch.equal(out[0, 0], out[0, 1])


@pytest.mark.parametrize("make", [dropout_problem, lambda: problem("mlp:6")[1:]])
def test_gradient_where_gradients_are_off(make):
    engine, theta, x, y = make()
    expected = engine.loss_and_gradient(theta, x[:, 0], y[:, 0])
    with torch.no_grad():
        loss, gradient = engine.loss_and_gradient(theta, x[:, 0], y[:, 0])
    assert torch.equal(loss, expected[0])
    assert torch.equal(gradient, expected[1])
    assert gradient.any()
    assert not loss.requires_grad
    assert not gradient.requires_grad


@pytest.mark.parametrize("spec", ["mlp:6", "lenet"])
def test_gradients_inside_inference_mode(spec):
    _, engine, theta, x, y = problem(spec, (1, 28, 28), num_envs=2)
    expected = engine.loss_and_gradient(theta, x[:, 0], y[:, 0])
    with torch.inference_mode():
        loss, gradient = engine.loss_and_gradient(theta, x[:, 0], y[:, 0])
    assert torch.equal(loss, expected[0])
    assert torch.equal(gradient, expected[1])


def test_batch_norm_does_not_couple_workers():
    models.register(
        "test_bn",
        lambda shape, classes: nn.Sequential(
            nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, classes)
        ),
    )
    _, engine, theta, x, y = problem("test_bn")
    out = torch.empty(3, 4, engine.num_parameters)
    engine.gradients(theta, x, y, generators(3), out)
    alone = torch.empty(3, 1, engine.num_parameters)
    engine.gradients(theta, x[:, :1], y[:, :1], generators(3), alone)
    torch.testing.assert_close(out[:, :1], alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("spec", ["mlp:6", "lenet"])
def test_a_loss_of_zero_has_no_sign(spec):
    _, engine, theta, x, y = problem(spec, (1, 28, 28), num_envs=1, num_workers=1)
    theta = torch.zeros_like(theta)
    theta[:, -10:] = torch.tensor([1000.0] + 9 * [-1000.0])  # the last biases
    for loss in (
        engine.loss(theta, x[:, 0], 0 * y[:, 0]),
        engine.loss_and_gradient(theta, x[:, 0], 0 * y[:, 0])[0],
    ):
        assert loss.item() == 0
        assert not loss.signbit()
