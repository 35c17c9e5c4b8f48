"""Models that write into their input, keep state of their own or have hooks on parameters."""

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
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(8, num_classes)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.calls += 1
        return self.head(x) * (1 + 0.1 * self.calls)


def spectral(num_classes):
    return parametrizations.spectral_norm(nn.Linear(8, num_classes))


def running(num_classes):
    norm = nn.InstanceNorm1d(1, track_running_stats=True)
    return nn.Sequential(nn.Unflatten(1, (1, 8)), norm, nn.Flatten(), nn.Linear(8, num_classes))


def hooked(num_classes):
    layer = nn.Linear(8, num_classes)
    layer.weight.register_hook(lambda gradient: 5 * gradient)
    return nn.Sequential(layer)


def make(build, num_envs=2):
    tasks.models.register("unusual", lambda shape, num_classes: build(num_classes))
    return Simulation.make(num_envs, seed=0, model="unusual", **TINY)


@pytest.mark.global_rng
@pytest.mark.parametrize(
    "build", [Shifting, lambda k: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, k))], ids=["GRU", "ReLU"]
)
def test_models_that_write_into_their_input(build):
    """The task's data and the QV set stay as they are, and the gradients are those of an honest loop."""
    simulation = make(build)
    task = simulation.setup.task
    before = [part.clone() for part in (task.train[0], task.test[0], simulation.quasi_validation.x)]
    first = simulation.evaluate()["test_loss"]
    simulation.apply(simulation.gradients.mean(1))
    simulation.view.qv_gradient  # noqa: B018
    for part, expected in zip(
        (task.train[0], task.test[0], simulation.quasi_validation.x), before, strict=True
    ):
        assert torch.equal(part, expected)
    assert not torch.equal(simulation.evaluate()["test_loss"], first)
    torch.testing.assert_close(simulation.evaluate()["test_loss"], simulation.evaluate()["test_loss"])
    model = build(task.num_classes)
    theta = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    x, y = task.train[0][:3], task.train[1][:3]
    out = theta.new_empty(1, 1, len(theta))
    generators = [torch.Generator()]
    simulation.engine.gradients(theta[None], x[None, None], y[None, None], generators, out)
    nn.functional.cross_entropy(model(x.clone()), y).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    torch.testing.assert_close(out[0, 0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "buffer"), [(Counting, "calls"), (spectral, "_u"), (running, "1.running_mean")]
)
def test_models_that_change_their_buffers_are_refused(build, buffer):
    with pytest.raises(ValueError, match=rf"model must not change its buffers, .*{buffer}' changes"):
        make(build)


def test_hooks_on_parameters_are_refused():
    with pytest.raises(ValueError, match=r"model must not have hooks on parameters, .*\['0.weight'\]"):
        make(hooked)
