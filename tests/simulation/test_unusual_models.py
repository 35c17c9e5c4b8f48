"""Models that write into their input, keep state of their own or have hooks on parameters."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from byzgym import tasks
from byzgym.simulation import Simulation

TINY = {"task": "synthetic", "num_workers": 4, "num_byzantine": 1, "batch_size": 3}


class Shifting(nn.Module):
    """Writes into its input, and has a recurrent layer that vmap cannot compute."""

    def __init__(self, num_classes):
        super().__init__()
        self.recurrent, self.head = nn.GRU(8, 4, batch_first=True), nn.Linear(4, num_classes)

    def forward(self, x):
        x -= 0.5
        return self.head(self.recurrent(x[:, None])[0][:, -1])


class Counting(nn.Module):
    """Counts its calls, in a buffer or in an attribute, and keeps what it has seen."""

    def __init__(self, num_classes, counter):
        super().__init__()
        self.head, self.seen = nn.Linear(8, num_classes), []
        if counter == "buffer":
            self.register_buffer("calls", torch.zeros(()))
        else:
            self.calls = torch.zeros(()) if counter == "tensor" else 0

    def forward(self, x):
        self.calls += 1
        self.kept = self.head(x)
        self.seen.append(self.kept)
        return self.kept * (1 + 0.1 * self.calls)


class Recurrent(nn.Module):
    """Counts its calls where vmap cannot compute it."""

    def __init__(self, num_classes):
        super().__init__()
        self.recurrent, self.counting = nn.GRU(8, 8, batch_first=True), Counting(num_classes, "number")

    def forward(self, x):
        return self.counting(self.recurrent(x[:, None])[0][:, -1])


class NumpyInitialised(nn.Linear):
    def __init__(self, num_classes):
        super().__init__(8, num_classes)
        self.weight.data = torch.tensor(np.random.randn(num_classes, 8), dtype=torch.float32)  # noqa: NPY002
        self.bias.data.fill_(random.random())


def spectral(num_classes):
    return parametrizations.spectral_norm(nn.Linear(8, num_classes))


def running(num_classes):
    norm = nn.InstanceNorm1d(1, track_running_stats=True)
    return nn.Sequential(nn.Unflatten(1, (1, 8)), norm, nn.Flatten(), nn.Linear(8, num_classes))


def hooked(num_classes):
    layer = nn.Linear(8, num_classes)
    layer.weight.register_hook(lambda gradient: 5 * gradient)
    return nn.Sequential(layer)


def one_layer_twice(num_classes):
    layer = nn.Linear(8, 8)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(8, num_classes))


def make(build, num_envs=2):
    tasks.models.register("unusual", lambda shape, num_classes: build(num_classes))
    return Simulation.make(num_envs, seed=0, model="unusual", **TINY)


def advance(simulation):
    """What a round and an evaluation after it give."""
    simulation.apply(simulation.gradients.mean(1))
    return [simulation.gradients.clone(), simulation.qv_loss(), *simulation.evaluate().values()]


@pytest.mark.global_rng
@pytest.mark.parametrize(
    "build", [Shifting, lambda k: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, k))], ids=["GRU", "ReLU"]
)
def test_models_that_write_into_their_input(build):
    """The task's data and the QV set stay as they are, and the gradients are those of an honest loop."""
    simulation = make(build)
    task = simulation.setup.task
    parts = (task.train[0], task.test[0], simulation.quasi_validation.x)
    before = [part.clone() for part in parts]
    advance(simulation)
    assert all(map(torch.equal, before, parts))
    model = build(task.num_classes)
    theta = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    x, y = task.train[0][:3], task.train[1][:3]
    out = theta.new_empty(1, 1, len(theta))
    simulation.engine.gradients(theta[None], x[None, None], y[None, None], [torch.Generator()], out)
    nn.functional.cross_entropy(model(x.clone()), y).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    torch.testing.assert_close(out[0, 0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "build",
    [lambda k: Counting(k, "number"), Recurrent, NumpyInitialised, one_layer_twice],
    ids=["counting", "recurrent", "numpy", "twice"],
)
def test_repeatable_and_copied_at_any_time(build):
    simulation = make(build)
    copies = [copy.deepcopy(simulation)]
    first = advance(simulation)
    copies.append(copy.deepcopy(simulation))
    second = advance(simulation)
    assert all(map(torch.equal, advance(copies[0]), first))
    assert all(map(torch.equal, advance(copies[1]), second))
    again = make(build)
    assert all(map(torch.equal, advance(again), first))
    again.reset([3, 4])
    simulation.reset([3, 4])
    assert all(map(torch.equal, advance(again), advance(simulation)))


def test_workers_do_not_share_a_counter():
    """Each is the first to call the model, whether they are computed at once or one by one."""
    for build in (lambda k: Counting(k, "number"), Recurrent):
        simulation = make(build, 1)
        theta = simulation.server.theta
        x, y = (part[:3].expand(1, 4, *part[:3].shape) for part in simulation.setup.task.train)
        out = theta.new_empty(1, 4, theta.shape[1])
        simulation.engine.gradients(theta, x, y, [torch.Generator()], out)
        torch.testing.assert_close(out[0], out[0, :1].expand(4, -1))


@pytest.mark.parametrize(
    ("build", "tensor"),
    [
        (lambda k: Counting(k, "buffer"), "calls"),
        (lambda k: Counting(k, "tensor"), "calls"),
        (spectral, "_u"),
        (running, "1.running_mean"),
    ],
    ids=["buffer", "tensor", "spectral_norm", "running_average"],
)
def test_models_that_change_tensors_are_refused(build, tensor):
    with pytest.raises(ValueError, match=rf"model must not change its buffers, .*{tensor}' changes"):
        make(build)


def test_hooks_on_parameters_are_refused():
    with pytest.raises(ValueError, match=r"model must not have hooks on parameters, .*\['0.weight'\]"):
        make(hooked)
