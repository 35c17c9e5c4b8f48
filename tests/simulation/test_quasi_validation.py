"""The server's own samples, and the loss on them: finite, bounded, and in nobody's way."""

import pytest
import torch
from simulation_cases import make

from byzgym import tasks
from byzgym.aggregation import ServerView
from byzgym.simulation import Simulation
from byzgym.simulation.quasi_validation import LARGEST_LOSS, QuasiValidation


class Scaling:
    """A model of two parameters whose loss is (theta_0 x)^2, and whose gradient overflows."""

    num_parameters = 2

    def loss(self, theta, x, y):
        return (theta[:, 0] * x[:, 0]).square()

    def loss_and_gradient(self, theta, x, y):
        return torch.tensor([torch.inf, 3e38]), torch.tensor([[torch.inf, 1.0], [-torch.inf, torch.nan]])


def test_losses_and_gradients_are_finite():
    qv = QuasiValidation(Scaling(), 2, torch.zeros(1), torch.zeros(1), num_classes=2)
    loss, gradient = qv.loss_and_gradient(torch.zeros(2, 2))
    assert LARGEST_LOSS == 1e30
    assert loss.tolist() == pytest.approx([1e30, 1e30])
    assert gradient.tolist() == [[0, 1], [0, 0]]


def test_new_samples_leave_earlier_graphs():
    qv = QuasiValidation(Scaling(), 1, torch.zeros(1), torch.zeros(1), num_classes=2)
    qv.assign(0, torch.ones(1), torch.zeros(1))
    theta = torch.ones(1, 2, requires_grad=True)
    loss = qv.loss(theta)
    qv.assign(0, torch.full((1,), 5.0), torch.zeros(1))
    loss.sum().backward()
    assert theta.grad[0, 0] == 2


def test_samples_are_in_no_share_and_no_test_set():
    def rows(x):
        return {tuple(row.tolist()) for row in x.flatten(1)}

    simulation = make(num_envs=3, task="digits")
    task, qv = simulation.setup.task, rows(simulation.quasi_validation.x.flatten(0, 1))
    assert qv <= rows(task.held_out[0])
    assert not qv & (rows(task.train[0]) | rows(task.test[0]))


ZEROS, LABELS = torch.zeros(10, 8), torch.zeros(10, dtype=torch.int64)


@pytest.mark.parametrize(
    "samples",
    [
        None,
        ZEROS,
        *((x, LABELS) for x in (ZEROS.numpy(), ZEROS[:3], ZEROS[:, :3], ZEROS * torch.nan)),
        *((ZEROS, y) for y in (None, LABELS.float(), LABELS - 1, LABELS + 3, LABELS[:3])),
    ],
)
def test_what_a_source_returns_is_checked(samples):
    tasks.quasi_validation.register("odd", lambda: lambda task, qv_size, generator: samples)
    with pytest.raises(ValueError, match=r"qv_source odd must return 10 finite samples of shape \(8,\)"):
        make(qv_source="odd")
    samples = (ZEROS.double(), LABELS)
    assert make(qv_source="odd").qv_loss().dtype == torch.float32
    samples = (ZEROS, LABELS + 3)
    with pytest.raises(
        ValueError, match=r"int64 of shape \(10,\) from 0 to 2, got 2 values \(float32 .* from 3 to 3"
    ):
        make(qv_source="odd")


@pytest.mark.parametrize("model", ["mlp:16", "xie_cnn", "softmax"])
def test_samples_own_gradients_and_contrasts_are_those_of_a_loop(model):
    simulation = Simulation.make(num_envs=2, seed=3, task="digits", model=model, qv_size=4)
    view, samples = simulation.view, simulation.quasi_validation
    assert view.qv_sample_gradients.shape == view.qv_contrasts.shape == (2, 4, simulation.num_parameters)
    torch.testing.assert_close(view.qv_sample_gradients.mean(1), view.qv_gradient, rtol=1e-4, atol=1e-6)
    for env in range(2):
        present = sorted(set(samples.y[env].tolist()))
        for sample in range(4):
            theta = view.theta[env : env + 1].clone().requires_grad_()
            logits = simulation.engine.logits(theta, samples.x[env : env + 1, sample : sample + 1])[0, 0]
            log_p = torch.log_softmax(logits, 0)
            own = int(samples.y[env, sample])
            others = [label for label in present if label != own]
            contrast = -log_p[own] + torch.stack([log_p[label] for label in others]).mean()
            for loss, given in ((-log_p[own], view.qv_sample_gradients), (contrast, view.qv_contrasts)):
                (expected,) = torch.autograd.grad(loss, theta, retain_graph=True)
                torch.testing.assert_close(given[env, sample], expected[0], rtol=1e-4, atol=1e-6)


def test_contrasts_are_zero_where_all_samples_have_one_label():
    simulation = Simulation.make(num_envs=1, seed=0, task="digits")
    simulation.quasi_validation.assign(
        0, simulation.quasi_validation.x[0], torch.zeros(10, dtype=torch.int64)
    )
    assert not simulation.view.qv_contrasts.any()


def test_a_job_with_the_mean_loss_alone_has_one_sample_and_no_contrasts():
    view = ServerView(torch.ones(1, 3, 2), torch.ones(1, 2), 0.1, lambda theta: theta.square().sum(1))
    assert view.qv_sample_gradients.tolist() == [[[2, 2]]]
    assert view.qv_contrasts is None


def test_part_of_a_view_has_its_samples():
    view = Simulation.make(num_envs=3, seed=0, task="synthetic").view
    part = view.of(torch.tensor([2, 0]))
    torch.testing.assert_close(part.qv_sample_gradients, view.qv_sample_gradients[[2, 0]])
    torch.testing.assert_close(part.qv_contrasts, view.qv_contrasts[[2, 0]])
